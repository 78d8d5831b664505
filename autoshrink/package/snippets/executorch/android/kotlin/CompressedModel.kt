// Runs the compiled model of this package with ExecuTorch, on the processor. See README.md.

import java.io.Closeable
import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/** The model in a file of the device: ExecuTorch maps it, so copy it from the assets first. */
class CompressedModel(path: String) : Closeable {
    /** An input or output of one call: numbers of this type in this shape. */
    class Port(val name: String, val type: String, val shape: LongArray, val bytes: Int)

    private val module = Module.load(path, Module.LOAD_MODE_MMAP, THREADS)

    /** One call: the buffer of each input by name in, the tensor of each output by name out. */
    fun run(inputs: Map<String, ByteBuffer>): Map<String, Tensor> {
        val given = INPUTS.map { port ->
            val buffer = inputs[port.name]
            require(buffer != null && buffer.capacity() == port.bytes) {
                "input ${port.name} must be a buffer of ${port.bytes} bytes"
            }
            buffer.rewind()
            EValue.from(tensor(buffer, port))
        }
        val results = module.forward(*given.toTypedArray())
        check(results.size == OUTPUTS.size) { "the model gives ${results.size} outputs, not ${OUTPUTS.size}" }
        return OUTPUTS.mapIndexed { i, port -> port.name to results[i].toTensor() }.toMap()
    }

    override fun close() = module.destroy()

    private fun tensor(buffer: ByteBuffer, port: Port): Tensor = when (port.type) {
        "float32" -> Tensor.fromBlob(buffer.asFloatBuffer(), port.shape)
        "float64" -> Tensor.fromBlob(buffer.asDoubleBuffer(), port.shape)
        "int32" -> Tensor.fromBlob(buffer.asIntBuffer(), port.shape)
        "int64" -> Tensor.fromBlob(buffer.asLongBuffer(), port.shape)
        "int8" -> Tensor.fromBlob(buffer, port.shape)
        "uint8" -> Tensor.fromBlobUnsigned(buffer, port.shape)
        else -> throw IllegalArgumentException("tensors of ${port.type} cannot be made from Kotlin")
    }

    companion object {
        // In the order of the model's `forward`.
        val INPUTS = listOf(
            // @each inputs
            Port("@{name}", "@{dtype}", longArrayOf(@{shape}), @{bytes})@{comma}
            // @end
        )
        val OUTPUTS = listOf(
            // @each outputs
            Port("@{name}", "@{dtype}", longArrayOf(@{shape}), @{bytes})@{comma}
            // @end
        )
        const val BATCH = @{batch}
        private const val THREADS = @{threads}

        /** A buffer for a whole input: fill it with `asFloatBuffer()` and the like, in the order of `Port.shape`. */
        fun buffer(port: Port): ByteBuffer = ByteBuffer.allocateDirect(port.bytes).order(ByteOrder.nativeOrder())
    }
}
