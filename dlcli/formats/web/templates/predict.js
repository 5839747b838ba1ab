// Predictions of a model that `dlcli export --format web` wrote, in a browser, with onnxruntime-web in ort/.
//
//     import { load } from "./best.web/predict.js";
//     const model = await load();
//     const reply = await model.predict(photo);           // a File or Blob of a photo
//     const reply = await model.predict({ rooms: 3, town: "Rome" });  // of a table: a row, or a list of rows
//
//     const reply = await model.predict("a text");                // or a list of texts
//     const reply = await model.predict("day,load\n2024-01-01,3.5\n...");  // rows and series: also CSV, or its JSON
//
// A reply has the form of `dlcli predict --json`: { predictions: [{ label, top_k: [...] }] }.
"use strict";

const TOP = 5;
const MISSING =
  "onnxruntime-web is not in the folder ort/: npm pack onnxruntime-web, and copy ort.wasm.min.mjs, " +
  "ort-wasm-simd-threaded.mjs and ort-wasm-simd-threaded.wasm of package/dist there";

/** The model of a folder, by default the one this file is in. Throws where a file is missing. */
export async function load(folder = new URL("./", import.meta.url)) {
  const facts = await (await get(new URL("model.json", folder))).json();
  const graph = await (await get(new URL("model.onnx", folder))).arrayBuffer();
  let ort;
  try {
    ort = await import(new URL("ort/ort.wasm.min.mjs", folder));
  } catch (error) {
    throw new Error(`${MISSING} (${error.message})`);
  }
  if (!self.crossOriginIsolated) ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(new Uint8Array(graph));
  const code = facts.tokenizer ? "tokens.js" : facts.series ? "series.js" : "";
  const own = code && (await import(new URL(code, folder)));
  return { facts, predict: (input) => predict(ort, session, facts, input, own) };
}

async function get(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: HTTP ${response.status}`);
  return response;
}

async function predict(ort, session, facts, input, own) {
  if (facts.series) return { predictions: await seriesRows(ort, session, facts, cells(input, facts), own) };
  if (facts.input === "text" && Array.isArray(input)) { // each alone: none is padded
    const predictions = [];
    for (const text of input) predictions.push(...(await predict(ort, session, facts, text, own)).predictions);
    return { predictions };
  }
  const feeds =
    facts.input === "image" ? await imageFeeds(ort, facts, input)
    : facts.input === "text" ? textFeeds(ort, own.encode(String(input), facts.tokenizer))
    : rowFeeds(ort, facts, cells(input, facts));
  return { predictions: (await outputs(session, feeds)).map((values) => row(facts, values)) };
}

/** The model's output for each sample of the feeds, its numbers in a list. */
async function outputs(session, feeds) {
  const { data, dims } = (await session.run(feeds))[session.outputNames[0]];
  const width = dims.slice(1).reduce((product, size) => product * size, 1);
  return Array.from({ length: dims[0] }, (_, at) => Array.from(data.slice(at * width, (at + 1) * width)));
}

/** The prediction of a series, or the steps that follow each of the series in a history. */
async function seriesRows(ort, session, facts, rows, own) {
  const spec = facts.series, channels = spec.channels.length;
  const tensor = (values) => new ort.Tensor("float32", values, [1, values.length / channels, channels]);
  if (facts.task !== "forecast") {
    const { values, steps } = own.whole(rows, spec);
    const feeds = { values: tensor(values) };
    if (spec.varies) feeds.lengths = new ort.Tensor("int64", BigInt64Array.of(BigInt(steps)), [1]);
    return (await outputs(session, feeds)).map((each) => row(facts, each));
  }
  const predictions = [], count = facts.targets.length;
  for (const window of own.windows(rows, spec, facts.targets)) {
    const [values] = await outputs(session, { values: tensor(window.values) });
    for (let at = 0; at < values.length; at += count) {
      const step = unscaled(facts, values.slice(at, at + count)).map((v, i) => v * window.std[i] + window.mean[i]);
      const named = window.series === undefined ? {} : { series: window.series };
      predictions.push({ ...named, step: at / count + 1, ...numbers(facts, step) });
    }
  }
  return predictions;
}

/** Rows, as they are given, or of CSV or JSON: objects where the first line has names, else lists. */
function cells(input, facts) {
  if (typeof input !== "string") return Array.isArray(input) ? input : [input];
  const plain = input.replace(/^\ufeff/, "").trim();
  if (/^[[{]/.test(plain)) return cells(JSON.parse(plain), facts);
  const head = plain.split("\n", 1)[0];
  const sign = [",", ";", "\t", "|"].reduce((best, one) => (head.split(one).length > head.split(best).length ? one : best));
  const rows = [[""]];
  let quoted = false;
  for (let at = 0; at < plain.length; at++) {
    const letter = plain[at], line = rows[rows.length - 1];
    if (letter === '"' && quoted && plain[at + 1] === '"') line[line.length - 1] += plain[++at];
    else if (letter === '"') quoted = !quoted;
    else if (letter === sign && !quoted) line.push("");
    else if (letter === "\n" && !quoted) rows.push([""]);
    else line[line.length - 1] += letter;
  }
  const lines = rows.map((line) => line.map((cell) => cell.trim())).filter((line) => line.some(Boolean) || line.length > 1);
  if (facts.series && facts.task !== "forecast") return lines; // of channels without names
  const [names, ...rest] = lines;
  return rest.map((line) => Object.fromEntries(names.map((name, i) => [name, line[i] ?? ""])));
}

/** uint8 (1, height, width, channels): upright, in the file's own colours, on white where transparent. */
async function imageFeeds(ort, facts, blob) {
  const bitmap = await createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  const pixels = new Uint8Array(width * height * facts.channels);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    const [r, g, b] = [rgba[from], rgba[from + 1], rgba[from + 2]];
    if (facts.channels === 1) pixels[to++] = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16; // as Pillow
    else { pixels[to++] = r; pixels[to++] = g; pixels[to++] = b; }
  }
  return { image: new ort.Tensor("uint8", pixels, [1, height, width, facts.channels]) };
}

/** Token ids int64 (1, T), and how many they are (1). */
function textFeeds(ort, ids) {
  const tokens = new ort.Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]);
  return { tokens, lengths: new ort.Tensor("int64", BigInt64Array.of(BigInt(ids.length)), [1]) };
}

/** The columns of rows: numbers as float64, NaN where missing, and words, "" where missing. */
function rowFeeds(ort, facts, input) {
  const rows = Array.isArray(input) ? input : [input];
  const known = new Set(facts.columns.map((column) => column.name));
  rows.forEach((cells) => Object.keys(cells).forEach((name) => {
    if (!known.has(name)) throw new Error(`unknown column '${name}'; the model reads ${[...known].join(", ")}`);
  }));
  const feeds = {};
  const numbers = facts.columns.filter((column) => !column.values);
  const words = facts.columns.filter((column) => column.values);
  const missing = (value) => value === null || value === undefined || value === "";
  if (numbers.length) {
    const values = rows.flatMap((cells) => numbers.map(({ name }) => {
      const value = missing(cells[name]) ? NaN : Number(cells[name]);
      if (!missing(cells[name]) && Number.isNaN(value)) throw new Error(`'${cells[name]}' in ${name} is no number`);
      return value;
    }));
    feeds.numeric = new ort.Tensor("float64", Float64Array.from(values), [rows.length, numbers.length]);
  }
  if (words.length) {
    const values = rows.flatMap((cells) => words.map(({ name }) => (missing(cells[name]) ? "" : String(cells[name]))));
    feeds.words = new ort.Tensor("string", values, [rows.length, words.length]);
  }
  return feeds;
}

/** Numbers in the data's units, where the graph does not give them. */
const unscaled = ({ scales }, values) => (scales ? values.map((v, i) => v * scales[i].std + scales[i].mean) : values);

/** A number, or several by name. */
function numbers({ targets }, values) {
  if (values.length === 1) return { value: values[0] };
  return { values: Object.fromEntries(targets.map((name, at) => [name, values[at]])) };
}

/** The prediction of one sample. */
function row(facts, values) {
  const { classes, thresholds, task } = facts;
  if (task === "embedding") return { embedding: values };
  if (task === "multilabel") {
    const above = classes.filter((_, at) => values[at] > (thresholds ? thresholds[at] : 0.5));
    return { labels: above, probabilities: Object.fromEntries(classes.map((name, at) => [name, values[at]])) };
  }
  if (task === "regression") {
    return numbers(facts, unscaled(facts, values));
  }
  const order = values.map((_, at) => at).sort((a, b) => values[b] - values[a]);
  const label = thresholds ? Number(values[1] > thresholds[0]) : order[0];
  const top = order.slice(0, TOP).map((at) => ({ label: classes[at], probability: values[at] }));
  return { label: classes[label], top_k: top };
}
