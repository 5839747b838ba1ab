// Series as a model takes them: gaps filled, standardised, the window of a forecast.
// `spec` is "series" of model.json; rows are those of CSV or JSON, with cells of numbers or text.
"use strict";

const MISSING = new Set(["", "?", "na", "n/a", "nan", "null", "none", "-"]);
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
const TIME = /^(\d{4})-(\d{1,2})(?:-(\d{1,2})(?:[T ](\d{1,2}):(\d\d)(?::(\d\d)(\.\d+)?(Z|[+-]\d\d:?\d\d)?)?)?)?$/;
const TIME_NAMES = new Set(["date", "time", "timestamp", "ds", "datetime"]);
const CLOCK = /^\d{1,2}:\d\d(:\d\d(\.\d+)?)?( ?[ap]m)?$/i;
const CLOCK_NAME = /time|hour|clock|uhr|zeit|heure|hora|tijd/i;
// What `dlcli predict` may read as a date, and this file does not.
const OTHER_TIME = new RegExp(
  String.raw`^((\d{4}|\d{1,2})([-/.])\d{1,2}\3(\d{4}|\d{1,2})(?!\d)` +
  String.raw`|\d{4}[-/.]\d{1,2}$|\d{1,2}[/.]\d{4}$|\d{4}[- ]?[QM]\d|Q\d[- ]\d{4}` +
  String.raw`|([a-z]{3,9},? |\d{1,4}[. -]+)*(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[ .,-]+\d)`, "i");

/** One whole series: rows of a step each, or one row of all steps of the only channel. */
export function whole(rows, spec) {
  const count = spec.channels.length;
  const first = rows[0];
  let steps = rows.map((row) => (isObject(row) ? row : [row])), names = null;
  if (isObject(first) && !Array.isArray(first)) {
    names = Object.keys(first);
  } else if (rows.length > 1 && steps[0].every((cell) => !NUMBER.test(text(cell))) && steps[0].some((cell) => !MISSING.has(text(cell)))) {
    names = steps[0].map((cell) => String(cell).trim());
    steps = steps.slice(1).map((row, at) => {
      if (row.length !== names.length) throw new Error(`row ${at + 1} has ${row.length} cells, the header ${names.length}`);
      return Object.fromEntries(names.map((name, place) => [name, row[place]]));
    });
  }
  if (names) { // names that are no channel's are the user's own, in the order of the channels
    const order = spec.channels.some((name) => names.includes(name)) ? spec.channels : names;
    steps = steps.map((row) => picked(row, order));
  }
  if (count === 1 && steps.length === 1) steps = steps[0].map((cell) => [cell]);
  steps.forEach((row, at) => {
    if (row.length !== count) throw new Error(`row ${at + 1} has ${row.length} cells; the model reads ${count} channels`);
  });
  let values = steps.map((row, at) => row.map((cell) => number(cell, `row ${at + 1}`)));
  while (values.length && values[values.length - 1].every(Number.isNaN)) values.pop(); // padding
  if (!spec.varies && values.length !== spec.length) throw new Error(`it has ${values.length} steps, not ${spec.length}`);
  values = finite(values.slice(0, spec.length));
  if (values.every((row) => row.every(Number.isNaN))) throw new Error("it has no values");
  for (let channel = 0; channel < count; channel++) interpolate(values, channel);
  return { values: scaled(values, spec.mean, spec.std), steps: values.length };
}

/** The last windows of the series in rows with named cells, each with its name and its own scale. */
export function windows(rows, spec, targets) {
  const names = spec.series_column ? spec.series_column.split(",") : [];
  if (!rows.every((row) => isObject(row) && !Array.isArray(row))) throw new Error("a history is rows with named cells");
  for (const name of [...spec.channels, ...names]) {
    if (!rows.length || !Object.hasOwn(rows[0], name)) throw new Error(`there is no column '${name}'`);
  }
  return ordered(rows, spec.channels, names).map(([name, own]) => {
    const values = finite(own.map((row) => spec.channels.map((channel) => number(cell(row, channel), channel))));
    const where = name ? `series '${name}'` : "the history";
    if (values.length < spec.length) throw new Error(`${where} has ${values.length} rows; the model reads ${spec.length}`);
    spec.channels.forEach((channel, at) => {
      if (!fill(values, at)) throw new Error(`${where}: '${channel}' has no value`);
    });
    const each = Object.values(spec.series).some((one) => one.mean.length);
    const scale = !each ? null : Object.hasOwn(spec.series, name) ? spec.series[name] : statistics(values);
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

const isObject = (value) => value !== null && typeof value === "object";
const text = (cell) => String(cell ?? "").trim().toLowerCase();
const cell = (row, name) => (Object.hasOwn(row, name) ? row[name] : null);
const finite = (values) => values.map((row) => row.map((value) => (Number.isFinite(value) ? value : NaN)));

/** The cells of a row by their names. */
function picked(row, names) {
  const absent = names.find((name) => !Object.hasOwn(row, name));
  if (absent !== undefined) throw new Error(`there is no '${absent}' among ${Object.keys(row).join(", ")}`);
  return names.map((name) => row[name]);
}

function number(cell, where) {
  if (MISSING.has(text(cell))) return NaN;
  if (!NUMBER.test(text(cell))) throw new Error(`'${cell}' in ${where} is no number`);
  return Number(cell);
}

/** The rows of each series by its name, in the order of time. */
function ordered(rows, channels, names) {
  const { column, times, numeric } = timeColumn(rows, channels);
  if (column && !numeric && new Set(times).size < times.length && times.every((time) => time % 86400 === 0)) {
    const clock = Object.keys(rows[0]).find((name) => CLOCK_NAME.test(name) && rows.every((row) => CLOCK.test(text(cell(row, name)))));
    if (clock !== undefined) throw new Error(`write the times of ${clock} in ${column}, after the dates`);
  }
  if (column && !names.length && times.length - new Set(times).size > 0.05 * times.length) {
    throw new Error(`times of ${column} repeat, and the model has no column to name the series`);
  }
  const parts = new Map();
  rows.forEach((row, at) => {
    const name = names.map((one) => String(cell(row, one) ?? "")).join("/");
    if (!parts.has(name)) parts.set(name, []);
    parts.get(name).push(at);
  });
  return Array.from(parts, ([name, part]) => {
    if (numeric && bothWays(part.map((at) => times[at]))) throw new Error(`${column} rises and falls: sort the rows by time`);
    return [name, part.sort((a, b) => times[a] - times[b] || a - b).map((at) => rows[at])];
  });
}

/** The column that has the times of the rows, and they as numbers, chosen as `dlcli predict` does. */
function timeColumn(rows, channels) {
  const columns = Object.keys(rows[0]).filter((name) => !channels.includes(name));
  const called = columns.filter((name) => TIME_NAMES.has(name.trim().toLowerCase()));
  const unordered = [];
  for (const column of new Set([...called, ...columns])) {
    const cells = rows.map((row) => String(cell(row, column) ?? "").trim());
    const there = cells.filter((one) => !MISSING.has(text(one)));
    if (there.every((one) => NUMBER.test(one))) {
      if (!called.includes(column) || !there.length) continue;
      if (there.length < cells.length) throw new Error(`there are rows without '${column}'`);
      return { column, times: cells.map(Number), numeric: true };
    }
    const times = dates(cells);
    if (times === null) {
      const like = there.every((one) => OTHER_TIME.test(one)) || (called.includes(column) && /^\d/.test(there[0]));
      if (!like || there.every((one) => CLOCK.test(one))) continue;
      throw new Error(`'${there[0]}' in ${column}, and all below it, is not written as 2024-01-31 or 2024-01-31 23:00:00`);
    }
    if (called.includes(column) || !bothWays(times)) return { column, times };
    unordered.push({ column, times });
  }
  return unordered.length === 1 ? unordered[0] : { times: rows.map((_, at) => at) };
}

/** The cells as seconds, null where they are not all times of one form. */
function dates(cells) {
  const parts = cells.map((one) => TIME.exec(one));
  const form = (part) => [3, 4, 6, 8].map((at) => part[at] !== undefined).join();
  if (!parts.every((part) => part && form(part) === form(parts[0]))) return null;
  const times = parts.map(seconds);
  return times.some(Number.isNaN) ? null : times;
}

/** The parts of a time as seconds since 1970, in UTC where it has a zone; NaN where it is none. */
function seconds([, year, month, day = 1, hour = 0, minute = 0, second = 0, fraction = 0, zone = "Z"]) {
  const at = new Date(Date.UTC(year, month - 1, day, hour, minute, second));
  const real = at.getUTCMonth() === month - 1 && at.getUTCDate() === Number(day) && hour < 24 && minute < 60 && second < 60;
  const ahead = zone === "Z" ? 0 : Number(`${zone[0]}1`) * (Number(zone.slice(1, 3)) * 60 + Number(zone.slice(-2))) * 60;
  return real ? at.getTime() / 1000 + Number(fraction) - ahead : NaN;
}

const bothWays = (times) => times.some((time, at) => time < times[at - 1]) && times.some((time, at) => time > times[at - 1]);

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
  const plain = values.flatMap((row) => row.map((value, at) => (value - mean[at]) / std[at] || 0));
  if (!plain.every((value) => Number.isFinite(Math.fround(value)))) throw new Error("a scaled value overflows float32");
  return Float32Array.from(plain);
}
