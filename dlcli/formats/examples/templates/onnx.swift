// Ask {{ file }} on iOS. WRITTEN, NOT RUN: nobody has built this program or compared its answers yet.
//
// Written by dlcli export. Add {{ file }} to the app, and the package of ONNX Runtime:
//     https://github.com/microsoft/onnxruntime-swift-package-manager
// A photo has to be upright (its EXIF orientation applied), of any size.
import CoreGraphics
import Foundation
import OnnxRuntimeBindings

final class Predictor {
    private let environment: ORTEnv
    private let session: ORTSession
{% if names %}
    private let names = [{{ names | strings }}]
{% endif %}

    init() throws {
        let path = Bundle.main.path(forResource: {{ stem | string }}, ofType: "onnx")!
        environment = try ORTEnv(loggingLevel: .warning)
        session = try ORTSession(env: environment, modelPath: path, sessionOptions: nil)
    }

    func predict(_ photo: CGImage) throws -> {{ result }} {
        let width = photo.width, height = photo.height
        var pixels = [UInt8](repeating: 255, count: width * height * 4)  // transparent parts are white
        pixels.withUnsafeMutableBytes { bytes in
            let context = CGContext(
                data: bytes.baseAddress, width: width, height: height, bitsPerComponent: 8,
                bytesPerRow: width * 4, space: CGColorSpace(name: CGColorSpace.sRGB)!,
                bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)!
            context.draw(photo, in: CGRect(x: 0, y: 0, width: width, height: height))
        }
        var image = [UInt8]()
        for _ in 0..<{{ batch }} {
            for i in stride(from: 0, to: pixels.count, by: 4) {
{% if channels == 3 %}
                image += pixels[i..<(i + 3)]
{% else %}
                let (red, green, blue) = (Int(pixels[i]), Int(pixels[i + 1]), Int(pixels[i + 2]))
                image.append(UInt8((red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16))
{% endif %}
            }
        }
        let input = try ORTValue(
            tensorData: NSMutableData(bytes: image, length: image.count), elementType: .uInt8,
            shape: [{{ batch }}, NSNumber(value: height), NSNumber(value: width), {{ channels }}])
        let outputs = try session.run(
            withInputs: ["image": input], outputNames: ["{{ output }}"], runOptions: nil)
        let data = try outputs["{{ output }}"]!.tensorData() as Data
        let all = data.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
        let x = Array(all.prefix(all.count / {{ batch }}))
{% include "answer.swift" %}
