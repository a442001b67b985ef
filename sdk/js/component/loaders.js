/** The interface `swift:dataset/loaders` over the author's loaders. */

import { Failed, declared } from "../swift-sdk.js";
import { fallible, find, infallible, outcome, settingsOf } from "./common.js";

/** A source that is being read. It looks one row ahead: the last batch knows that it is the last, and `open` fails first. */
class Reader {
  #rows;
  #ahead;
  #length;
  #cursor;

  constructor(rows, length, cursor) {
    if (typeof rows?.[Symbol.iterator] !== "function") throw new Failed("a loader is a generator: it must `yield [row, cursor]`");
    this.#rows = rows[Symbol.iterator]();
    this.#ahead = this.#rows.next();
    this.#length = length ?? null;
    this.#cursor = cursor ?? "";
  }

  length() {
    return this.#length;
  }

  next(limit) {
    return fallible(() => this.#batch(limit))();
  }

  #batch(limit) {
    const outcomes = [];
    while (!this.#ahead.done && outcomes.length < limit) {
      const pair = this.#ahead.value;
      if (!Array.isArray(pair) || pair.length !== 2) throw new Failed("a loader must yield pairs: `yield [row, cursor]`");
      outcomes.push(outcome(pair[0]));
      this.#cursor = String(pair[1]);
      this.#ahead = this.#rows.next();
    }
    return { outcomes, cursor: this.#cursor, last: this.#ahead.done };
  }
}

export const loaders = {
  loaders: infallible(() =>
    [...declared.dataset.values()].map((one) => ({ name: one.name, summary: one.summary ?? "", endings: one.endings ?? [] })),
  ),

  open: fallible((name, source, cursor) => {
    const entry = find("dataset", name);
    const settings = settingsOf(entry, source.config);
    const given = { location: source.location, subset: source.subset ?? null, settings };
    const from = cursor ?? null;
    if (!entry.isClass) return new Reader(entry.target(given, from), null, from);
    const object = new entry.target();
    object.open(given, from);
    return new Reader(object.rows(), object.length?.(), from);
  }),

  Reader,
};
