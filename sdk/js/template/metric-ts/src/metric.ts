/** A metric: how many predictions equal a reference. */

import { type Answer, type Example, type Metric, metric } from "../sdk/swift-sdk.js";

const options = { summary: "Share of predictions that equal a reference", higherIsBetter: true };

/** What was taken in. */
interface Taken {
  right: number;
  count: number;
}

/** One object takes in a part of the evaluation; `merge` puts the parts together. */
class ExactMatch implements Metric<Taken> {
  right = 0;
  count = 0;

  update(examples: Example[]) {
    for (const { prediction, references } of examples) {
      this.count += 1;
      if (references.some((reference) => trim(reference) === trim(prediction))) this.right += 1;
    }
  }

  state(): Taken {
    return { right: this.right, count: this.count };
  }

  merge(state: Taken) {
    this.right += state.right;
    this.count += state.count;
  }

  /** What is null is left out: a mean of nothing is none. */
  compute() {
    return { exact_match: this.count > 0 ? this.right / this.count : null };
  }
}

metric("exact_match", options, ExactMatch);

/** A text without the ASCII white space around it. */
function trim(answer: Answer): string {
  if (typeof answer !== "string") throw new TypeError("exact_match compares texts");
  return answer.replace(/^[ \t\n\v\f\r]+|[ \t\n\v\f\r]+$/g, "");
}
