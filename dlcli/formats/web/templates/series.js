// Series as a model takes them: gaps filled, standardised, the window of a forecast.
// `spec` is "series" of model.json; rows are those of CSV or JSON, with cells of numbers or text.
"use strict";

const MISSING = new Set(["", "?", "na", "n/a", "nan", "null", "none", "-"]);
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
const TIME = /^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?)?$/;
const TIME_NAMES = new Set(["date", "time", "timestamp", "ds", "datetime"]);

/** One whole series: rows of a step each, or one row of all steps of the only channel. */
export function whole(rows, spec) {
  let steps = rows.map((row) => (Array.isArray(row) ? row : row !== null && typeof row === "object" ? Object.values(row) : [row]));
  const count = spec.channels.length;
  const named = steps[0].every((cell) => !NUMBER.test(text(cell))) && steps[0].some((cell) => !MISSING.has(text(cell)));
  if (steps.length > 1 && named) steps = steps.slice(1); // a header
  if (count === 1 && steps.length === 1) steps = steps[0].map((cell) => [cell]);
  steps.forEach((row, at) => {
    if (row.length !== count) throw new Error(`row ${at + 1} has ${row.length} cells; the model reads ${count} channels`);
  });
  let values = steps.map((row, at) => row.map((cell) => number(cell, `row ${at + 1}`)));
  while (values.length && values[values.length - 1].every(Number.isNaN)) values.pop(); // padding
  if (!spec.varies && values.length !== spec.length) throw new Error(`it has ${values.length} steps, not ${spec.length}`);
  values = values.slice(0, spec.length);
  if (!values.some((row) => row.some(Number.isFinite))) throw new Error("it has no values");
  for (let channel = 0; channel < count; channel++) interpolate(values, channel);
  return { values: scaled(values, spec.mean, spec.std), steps: values.length };
}

/** The last windows of the series in rows with named cells, each with its name and its own scale. */
export function windows(rows, spec, targets) {
  const names = spec.series_column ? spec.series_column.split(",") : [];
  for (const name of [...spec.channels, ...names]) {
    if (!rows.length || !(name in rows[0])) throw new Error(`there is no column '${name}'`);
  }
  const parts = new Map(rows.map((row) => [names.map((name) => row[name]).join("/"), []]));
  ordered(rows, new Set([...spec.channels, ...names])).forEach((row) => {
    parts.get(names.map((name) => row[name]).join("/")).push(row);
  });
  return Array.from(parts, ([name, own]) => {
    const values = own.map((row) => spec.channels.map((channel) => number(row[channel], channel)));
    const where = name ? `series '${name}'` : "the history";
    if (values.length < spec.length) throw new Error(`${where} has ${values.length} rows; the model reads ${spec.length}`);
    spec.channels.forEach((channel, at) => {
      if (!fill(values, at)) throw new Error(`${where}: '${channel}' has no value`);
    });
    const each = Object.values(spec.series).some((one) => one.mean.length);
    const scale = !each ? null : spec.series[name] || statistics(values);
    const plain = scale ? values.map((row) => row.map((value, at) => (value - scale.mean[at]) / scale.std[at])) : values;
    const places = targets.map((target) => spec.channels.indexOf(target));
    return {
      series: names.length ? name : undefined,
      values: scaled(plain.slice(-spec.length), spec.mean, spec.std),
      mean: places.map((at) => (scale ? scale.mean[at] : 0)),
      std: places.map((at) => (scale ? scale.std[at] : 1)),
    };
  });
}

const text = (cell) => String(cell).trim().toLowerCase();

function number(cell, where) {
  if (cell === null || cell === undefined || MISSING.has(text(cell))) return NaN;
  if (!NUMBER.test(text(cell))) throw new Error(`'${cell}' in ${where} is no number`);
  return Number(cell);
}

/** The rows in the order of time, where a column has times. */
function ordered(rows, used) {
  const first = rows[0];
  const named = (name) => TIME_NAMES.has(name.toLowerCase()) || /^\d+[-/.:]\d/.test(String(first[name]));
  const names = Object.keys(first).filter((name) => !used.has(name) && named(name));
  if (names.length > 1) throw new Error(`several columns have times: ${names.join(", ")}`);
  if (!names.length) return rows;
  const times = rows.map((row) => String(row[names[0]]).trim());
  const numbers = times.every((time) => NUMBER.test(time));
  const bad = times.find((time) => !numbers && !TIME.test(time));
  if (bad !== undefined) throw new Error(`'${bad}' in ${names[0]} is not written as 2024-01-31 or 2024-01-31 23:00:00`);
  const keys = times.map((time) => (numbers ? Number(time) : time.replace("T", " ")));
  const order = rows.map((_, at) => at).sort((a, b) => (keys[a] < keys[b] ? -1 : keys[a] > keys[b] ? 1 : a - b));
  return order.map((at) => rows[at]);
}

/** Gaps of a channel linearly in time; its first and last value before and after them. */
function interpolate(values, channel) {
  const there = values.map((_, at) => at).filter((at) => !Number.isNaN(values[at][channel]));
  if (!there.length) return;
  let next = 0;
  for (let at = 0; at < values.length; at++) {
    while (next < there.length && there[next] < at) next++;
    if (there[next] === at) continue;
    const [left, right] = [there[next - 1] ?? there[next], there[next] ?? there[next - 1]];
    const [low, high] = [values[left][channel], values[right][channel]];
    values[at][channel] = left === right ? low : low + ((high - low) * (at - left)) / (right - left);
  }
}

/** Gaps of a channel by the value before them, at the beginning by the first; whether there is one. */
function fill(values, channel) {
  let last = values.map((row) => row[channel]).find((value) => !Number.isNaN(value));
  for (const row of values) last = row[channel] = Number.isNaN(row[channel]) ? last : row[channel];
  return last !== undefined;
}

/** Mean and standard deviation of each channel, of a constant one 1. */
function statistics(values) {
  const columns = values[0].map((_, at) => values.map((row) => row[at]));
  const mean = columns.map((column) => column.reduce((sum, value) => sum + value, 0) / column.length);
  const std = columns.map((column, at) => {
    const squares = column.reduce((sum, value) => sum + (value - mean[at]) ** 2, 0);
    return column.some((value) => value !== column[0]) ? Math.sqrt(squares / column.length) : 1;
  });
  return { mean, std };
}

/** Float32 of (steps, channels); a channel without values is 0, its mean. */
function scaled(values, mean, std) {
  return Float32Array.from(values.flatMap((row) => row.map((value, at) => (value - mean[at]) / std[at] || 0)));
}
