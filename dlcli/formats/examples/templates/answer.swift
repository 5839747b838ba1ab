{% if kind == "classification" %}
{% if not readable %}
        let powers = x.map { exp(Double($0 - x.max()!)) }
        let p = powers.map { Float($0 / powers.reduce(0, +)) }
{% else %}
        let p = x
{% endif %}
{% if thresholds %}
        let best = p[1] > {{ thresholds[0] }} ? 1 : 0
{% else %}
        let best = p.indices.max { p[$0] < p[$1] }!
{% endif %}
        return (names[best], p[best])  // its probability
{% elif kind == "multilabel" %}
        return Dictionary(uniqueKeysWithValues: zip(names, {{ "x" if readable else "x.map { 1 / (1 + exp(-$0)) }" }}))
{% elif targets %}
        let scales: [Float] = [{{ stds | join(", ") }}], means: [Float] = [{{ means | join(", ") }}]
        return Dictionary(uniqueKeysWithValues: names.indices.map { (names[$0], x[$0] * scales[$0] + means[$0]) })
{% else %}
        return x
{% endif %}
    }
}
