/** A reward that goes wrong in the way that the completion names; the tests know its lines. */

import { Failed, http, random, reward } from "../sdk/swift-sdk.js";

class Trouble {
  configure(settings) {
    if (settings.share > 1) throw new RangeError("more than all");
  }

  score(sample, state) {
    return this[sample.completion](sample, state);
  }

  raises(sample) {
    throw new RangeError(`no number in "${sample.solution}"`);
  }

  cause() {
    try {
      return JSON.parse("{");
    } catch (cause) {
      throw new Error("count", { cause });
    }
  }

  absent(sample) {
    return sample.absent.length;
  }

  says() {
    throw new Failed("the solution is no number");
  }

  clock() {
    return Date.now();
  }

  today() {
    return new Date().getFullYear();
  }

  waits() {
    return Promise.resolve(1);
  }

  fetches() {
    return fetch("http://127.0.0.1");
  }

  recursion() {
    return this.recursion() + 1;
  }

  nan() {
    return NaN;
  }

  text() {
    return "high";
  }

  loops() {
    for (;;);
  }

  memory() {
    const kept = [];
    for (;;) kept.push(new Uint8Array(1 << 24).fill(1));
  }

  chance(sample, state) {
    return Math.random() + random(state.seed)();
  }

  column(sample, state) {
    return sample.columns.weights.first + state.extra.more;
  }

  prints() {
    console.log("seen");
    console.warn("odd");
  }

  asks(sample) {
    const answer = http.post(sample.solution, { json: { text: "é" } });
    return answer.status + answer.json().score;
  }
}

reward("trouble", { settings: { share: 0.5 } }, Trouble);
