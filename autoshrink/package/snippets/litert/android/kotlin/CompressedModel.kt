// Runs the compiled model of this package with LiteRT's Interpreter, on the processor. See README.md.

import java.io.Closeable
import java.io.InputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.tensorflow.lite.Interpreter

/** A model whose bytes are in a direct or mapped buffer, which must not change while it is used. */
class CompressedModel(model: ByteBuffer) : Closeable {
    /** An input or output of one call, as the model takes or gives it: numbers of this type in this shape. */
    class Port(val name: String, val type: String, val shape: List<Int>, val bytes: Int)

    private val interpreter = Interpreter(model, Interpreter.Options().apply { setNumThreads(THREADS) })

    /** One call: the buffer of each input by name in, of each output by name out. */
    fun run(inputs: Map<String, ByteBuffer>): Map<String, ByteBuffer> {
        for (port in INPUTS) {
            val buffer = inputs[port.name]
            require(buffer != null && buffer.capacity() == port.bytes) {
                "input ${port.name} must be a buffer of ${port.bytes} bytes"
            }
            buffer.rewind()
        }
        val results = OUTPUTS.associate { it.name to buffer(it) }
        interpreter.runSignature(inputs, HashMap<String, Any>(results))
        for (result in results.values) result.rewind()
        return results
    }

    override fun close() = interpreter.close()

    companion object {
        val INPUTS = listOf(
            // @each inputs
            Port("@{name}", "@{dtype}", listOf(@{file_shape}), @{bytes})@{comma}
            // @end
        )
        val OUTPUTS = listOf(
            // @each outputs
            Port("@{name}", "@{dtype}", listOf(@{file_shape}), @{bytes})@{comma}
            // @end
        )
        const val BATCH = @{batch}
        private const val THREADS = @{threads}
        private const val MODEL = "@{model}"

        /** The model of the package; on Android `CompressedModel.load(assets::open)`. */
        fun load(open: (String) -> InputStream): CompressedModel {
            val content = open(MODEL).use { it.readBytes() }
            val model = ByteBuffer.allocateDirect(content.size).order(ByteOrder.nativeOrder())
            model.put(content)
            model.rewind()
            return CompressedModel(model)
        }

        /** A buffer for a whole input: fill it with `asFloatBuffer()` and the like, in the order of `Port.shape`. */
        fun buffer(port: Port): ByteBuffer = ByteBuffer.allocateDirect(port.bytes).order(ByteOrder.nativeOrder())
    }
}
