// Ask {{ file }} on Android. WRITTEN, NOT RUN: nobody has built this program or compared its answers yet.
//
// Written by dlcli export. Put {{ file }} into src/main/assets, and into build.gradle.kts:
//     dependencies { implementation("com.microsoft.onnxruntime:onnxruntime-android:1.24.3") }
{% if mode == "image" %}
// A photo has to be upright (its EXIF orientation applied), of any size, and no hardware bitmap.
{% else %}
// A column that is left out is missing{{ "; a time is in seconds since 1970" if times }}.
{% endif %}
import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import android.content.Context
{% if mode == "image" %}
import android.graphics.Bitmap
import java.nio.ByteBuffer
{% else %}
import java.nio.DoubleBuffer
{% endif %}

class Predictor(context: Context) : AutoCloseable {
    private val environment = OrtEnvironment.getEnvironment()
    private val session = environment.createSession(context.assets.open({{ file | string | kotlin }}).use { it.readBytes() })
{% if names %}
    private val names = listOf({{ names | strings | kotlin }})
{% endif %}
{% if mode == "table" and numbers %}
    private val numbers = listOf({{ numbers | strings | kotlin }})
{% endif %}
{% if mode == "table" and words %}
    private val words = listOf({{ words | strings | kotlin }})
{% endif %}

{% if mode == "image" %}
    fun predict(photo: Bitmap): {{ result }} {
        val pixels = IntArray(photo.width * photo.height)
        photo.getPixels(pixels, 0, photo.width, 0, 0, photo.width, photo.height)
        val bytes = ByteBuffer.allocateDirect({{ batch }} * pixels.size * {{ channels }})
        repeat({{ batch }}) {
            for (argb in pixels) {
                val red = argb shr 16 and 255
                val green = argb shr 8 and 255
                val blue = argb and 255
{% if channels == 3 %}
                bytes.put(red.toByte()).put(green.toByte()).put(blue.toByte())
{% else %}
                bytes.put((red * 19595 + green * 38470 + blue * 7471 + 32768 shr 16).toByte())
{% endif %}
            }
        }
        bytes.rewind()
        val shape = longArrayOf({{ batch }}, photo.height.toLong(), photo.width.toLong(), {{ channels }})
        val inputs = mapOf("image" to OnnxTensor.createTensor(environment, bytes, shape, OnnxJavaType.UINT8))
{% else %}
    fun predict(cells: Map<String, String>): {{ result }} {
        val inputs = mutableMapOf<String, OnnxTensor>()
{% if numbers %}
        val row = numbers.map { cells[it]?.toDouble() ?: Double.NaN }
        val values = DoubleBuffer.wrap(DoubleArray({{ batch }} * row.size) { row[it % row.size] })
        val shape = longArrayOf({{ batch }}, row.size.toLong())
        inputs["numeric"] = OnnxTensor.createTensor(environment, values, shape)
{% endif %}
{% if words %}
        val text = Array({{ batch }} * words.size) { cells[words[it % words.size]] ?: "" }
        inputs["words"] = OnnxTensor.createTensor(environment, text, longArrayOf({{ batch }}, words.size.toLong()))
{% endif %}
{% endif %}
        try {
            session.run(inputs).use { outputs ->
                @Suppress("UNCHECKED_CAST")
                val x = (outputs[0].value as Array<FloatArray>)[0]
{% if kind == "classification" %}
{% if thresholds %}
                val best = if (x[1] > {{ thresholds[0] }}) 1 else 0
{% else %}
                val best = x.indices.maxByOrNull { x[it] }!!
{% endif %}
                return names[best] to x[best]  // its probability
{% elif names %}
                return names.zip(x.toList()).toMap()  // {{ "probabilities" if kind == "multilabel" else "values" }}
{% else %}
                return x
{% endif %}
            }
        } finally {
            inputs.values.forEach { it.close() }
        }
    }

    override fun close() = session.close()
}
