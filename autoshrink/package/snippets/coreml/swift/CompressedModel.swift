// Runs the compiled model of this package with Core ML. See README.md.

import CoreML
import Foundation

/// The compiled model. One call takes and gives whole arrays, by name.
@available(iOS @{minimum_ios}, macOS @{minimum_macos}, *)
public final class CompressedModel {
    /// An input or output of one call. `feature` is its name in Core ML; integers have 32 bits there.
    public struct Port {
        public let name: String
        public let feature: String
        public let type: MLMultiArrayDataType
        public let shape: [Int]
    }

    public enum Failure: Error {
        case input(String)
        case output(String)
    }

    public static let inputs: [Port] = [
        // @each inputs
        Port(name: "@{name}", feature: "@{feature}", type: .@{swift_type}, shape: [@{shape}]),
        // @end
    ]
    public static let outputs: [Port] = [
        // @each outputs
        Port(name: "@{name}", feature: "@{feature}", type: .@{swift_type}, shape: [@{shape}]),
        // @end
    ]

    private let model: MLModel

    /// The model of the app: Xcode compiles `model.mlpackage` to `model.mlmodelc` and puts it into the bundle.
    public convenience init(bundle: Bundle = .main) throws {
        guard let url = bundle.url(forResource: "model", withExtension: "mlmodelc") else {
            throw CocoaError(.fileNoSuchFile)
        }
        try self.init(compiled: url)
    }

    /// A model that was compiled before, by Xcode or by `MLModel.compileModel(at:)`.
    public init(compiled url: URL) throws {
        let configuration = MLModelConfiguration()
        configuration.computeUnits = .@{compute_units}
        model = try MLModel(contentsOf: url, configuration: configuration)
    }

    /// One call. Make the arrays with `MLMultiArray(shape:dataType:)` from a port's `shape` and `type`.
    public func run(_ arrays: [String: MLMultiArray]) throws -> [String: MLMultiArray] {
        var features: [String: MLFeatureValue] = [:]
        for port in Self.inputs {
            guard let array = arrays[port.name], array.shape.map(\.intValue) == port.shape else {
                throw Failure.input("\(port.name) must have the shape \(port.shape)")
            }
            features[port.feature] = MLFeatureValue(multiArray: array)
        }
        let results = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: features))
        var found: [String: MLMultiArray] = [:]
        for port in Self.outputs {
            guard let array = results.featureValue(for: port.feature)?.multiArrayValue else {
                throw Failure.output("the model gives no \(port.feature)")
            }
            found[port.name] = array
        }
        return found
    }
}
