// Ask {{ file }} on iOS or macOS. WRITTEN, NOT RUN: nobody has built this program or compared its answers yet.
//
// Written by dlcli export. Add {{ file }} to the app: Xcode compiles it. A photo has to be upright (its EXIF
// orientation applied). Core Graphics resizes it, not as dlcli does: answers differ a little.
import CoreGraphics
import CoreML
import Foundation

final class Predictor {
    private let model: MLModel
{% if names %}
    private let names = [{{ names | strings }}]
{% endif %}
    private let mean: [Float] = [{{ mean | join(", ") }}], std: [Float] = [{{ std | join(", ") }}]

    init() throws {
        model = try MLModel(contentsOf: Bundle.main.url(forResource: {{ stem | string }}, withExtension: "mlmodelc")!)
    }

    func predict(_ photo: CGImage) throws -> {{ result }} {
        let width = {{ width }}, height = {{ height }}
        var pixels = [UInt8](repeating: 255, count: width * height * 4)  // transparent parts are white
        pixels.withUnsafeMutableBytes { bytes in
            let context = CGContext(
                data: bytes.baseAddress, width: width, height: height, bitsPerComponent: 8,
                bytesPerRow: width * 4, space: CGColorSpace(name: CGColorSpace.sRGB)!,
                bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)!
            context.interpolationQuality = .high
{% if resize == "crop" %}
            // The shorter side becomes {{ resize_size }} pixels, and the centre is taken.
            let scale = {{ resize_size }} / CGFloat(min(photo.width, photo.height))
            let w = CGFloat(photo.width) * scale, h = CGFloat(photo.height) * scale
            context.draw(photo, in: CGRect(x: (CGFloat(width) - w) / 2, y: (CGFloat(height) - h) / 2, width: w, height: h))
{% else %}
            context.draw(photo, in: CGRect(x: 0, y: 0, width: width, height: height))
{% endif %}
        }
        let input = try MLMultiArray(shape: [{{ batch }}, {{ channels }}, {{ height }}, {{ width }}], dataType: .float32)
        let values = input.dataPointer.bindMemory(to: Float.self, capacity: input.count)
        for i in 0..<(width * height) {
{% if channels == 3 %}
            let levels = (0..<3).map { Float(pixels[4 * i + $0]) }
{% else %}
            let (red, green, blue) = (Int(pixels[4 * i]), Int(pixels[4 * i + 1]), Int(pixels[4 * i + 2]))
            let levels = [Float((red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16)]
{% endif %}
            for n in 0..<{{ batch }} {
                for c in 0..<{{ channels }} {
                    values[(n * {{ channels }} + c) * width * height + i] = (levels[c] / 255 - mean[c]) / std[c]
                }
            }
        }
        let features = try MLDictionaryFeatureProvider(dictionary: ["input": input])
        let output = try model.prediction(from: features).featureValue(for: "{{ output }}")!.multiArrayValue!
        let x = (0..<(output.count / {{ batch }})).map { output[$0].floatValue }
{% include "answer.swift" %}
