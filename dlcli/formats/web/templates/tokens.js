// Token ids of texts, as dlcli's own tokenizers give them: words, or byte pairs (arXiv 1508.07909).
// `spec` is "tokenizer" of model.json.
"use strict";

const UNKNOWN = 1;

/** The ids of a text, at least one and at most spec.max_length. */
export function encode(text, spec) {
  const known = spec.ids || (spec.ids = new Map(spec.vocabulary.map((token, id) => [token, id])));
  const tokens = spec.kind === "bpe" ? bytePairs(text, spec) : words(text, spec);
  const ids = tokens.slice(0, spec.max_length).map((token) => known.get(token) ?? UNKNOWN);
  return ids.length ? ids : [UNKNOWN];
}

/** Words, numbers with their points and commas, and marks. Scripts without spaces: each sign is one. */
function words(text, spec) {
  if (!spec.pattern) {
    const number = "\\p{Nd}+(?:[.,]\\p{Nd}+)+(?![\\p{L}\\p{N}])";
    const letter = `(?:(?![${spec.unspaced}])[\\p{L}\\p{N}]\\p{M}*)`;
    const sign = `[${spec.unspaced}]\\p{M}*`;
    spec.pattern = new RegExp(`${number}|${letter}+(?:'${letter}+)*|${sign}|\\S\\p{M}*`, "gu");
  }
  const plain = wellFormed(text).normalize("NFC").replaceAll("\u2019", "'")
    .replace(/[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]/g, "")
    .replace(/[\x00-\x1f\x7f-\x9f]/g, " ");
  return (spec.lowercase ? plain.toLowerCase() : plain).match(spec.pattern) || [];
}

/** Byte pairs: the text's bytes as characters, merged within each word, the pair learned first at first. */
function bytePairs(text, spec) {
  const ranks = spec.ranks || (spec.ranks = new Map(spec.merges.map((pair, rank) => [pair.join(" "), rank])));
  const characters = spec.characters || (spec.characters = byteCharacters());
  let plain = wellFormed(text).replace(/^[\s\x1c-\x1f\x85]+|[\s\x1c-\x1f\x85]+$/g, "").normalize("NFC");
  if (spec.lowercase) plain = Array.from(plain, (letter) => letter.toLowerCase()).join("");
  if (!plain) return [];
  const parts = ` ${plain}`.match(
    /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu,
  );
  return parts.flatMap((part) => {
    const tokens = Array.from(new TextEncoder().encode(part), (byte) => characters[byte]);
    for (;;) {
      let best = -1, lowest = Infinity;
      for (let at = 0; at + 1 < tokens.length; at++) {
        const rank = ranks.get(`${tokens[at]} ${tokens[at + 1]}`) ?? Infinity;
        if (rank < lowest) [best, lowest] = [at, rank];
      }
      if (best < 0) return tokens;
      tokens.splice(best, 2, tokens[best] + tokens[best + 1]);
    }
  });
}

/** A visible character for each byte: its own where it has one, else one after U+00FF. */
function byteCharacters() {
  const own = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(own(byte) ? byte : next++));
}

const wellFormed = (text) => text.replace(/\p{Surrogate}/gu, "?");
