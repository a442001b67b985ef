/** The interface `swift:metric/metrics` over the author's metrics. */

import { Failed, declared, utf8 } from "../swift-sdk.js";
import { columnsOf, fallible, find, infallible, made, settingsOf, what } from "./common.js";

let chosen;

export const metrics = {
  metrics: infallible(() =>
    [...declared.metric.values()].map((one) => ({
      name: one.name,
      summary: one.summary ?? "",
      higherIsBetter: one.higherIsBetter ?? true,
    })),
  ),

  configure: fallible((name, config) => {
    const entry = find("metric", name);
    chosen = made(entry, settingsOf(entry, config));
  }),

  update: fallible((examples) => {
    chosen.update(
      examples.map((one) => ({
        prediction: one.prediction.val,
        references: one.references.map((reference) => reference.val),
        columns: columnsOf(one.columns),
      })),
    );
  }),

  state: fallible(() => utf8.encode(JSON.stringify(chosen.state()))),

  merge: fallible((state) => {
    chosen.merge(JSON.parse(utf8.decode(state)));
  }),

  compute: fallible(() => {
    const numbers = chosen.compute();
    if (numbers === null || typeof numbers !== "object") {
      throw new Failed(`compute gave ${what(numbers)}; it must give an object of names and numbers`);
    }
    return Object.entries(numbers).filter(([name, value]) => {
      if (value !== null && value !== undefined && typeof value !== "number") throw new Failed(`${name} is no number but ${what(value)}`);
      return typeof value === "number";
    });
  }),
};
