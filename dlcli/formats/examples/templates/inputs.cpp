// The inputs are arrays of numpy.save, prepared as the model takes them:
// {{ prepared }}.
{% for tensor in inputs %}
//     {{ tensor.name }}: {{ tensor.dtype }} ({{ tensor.dims | join(", ") }})
{% endfor %}
{% if image %}
// predict_onnx.py prepares one (dlcli export --onnx --with-example):
//     python -c "import numpy, predict_onnx; numpy.save('input.npy', predict_onnx.inputs('photo.jpg')['input'])"
{% endif %}
