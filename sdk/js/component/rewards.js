/** The interface `swift:reward/rewards` over the author's reward functions. */

import { Failed, declared } from "../swift-sdk.js";
import { columnsOf, describe, fallible, find, infallible, made, settingsOf, what } from "./common.js";

/** What `configure` set up in this instance: a function of samples and state. */
let chosen;

export const rewards = {
  rewards: infallible(() =>
    [...declared.reward.values()].map((one) => ({ name: one.name, summary: one.summary ?? "", wholeBatch: one.wholeBatch ?? false })),
  ),

  configure: fallible((name, config) => {
    const entry = find("reward", name);
    const settings = settingsOf(entry, config);
    const object = made(entry, settings);
    if (!entry.isClass) chosen = each((sample, state) => object(sample, state, settings));
    else if (object.scoreBatch) chosen = (samples, state) => batch(object.scoreBatch(samples, state), samples.length);
    else chosen = each((sample, state) => object.score(sample, state));
  }),

  score: fallible((samples, state) => chosen(samples.map(sampleOf), { ...state, extra: JSON.parse(state.extra) })),
};

const sampleOf = (sample) => ({ ...sample, solution: sample.solution ?? null, columns: columnsOf(sample.columns) });

const each = (score) => (samples, state) => samples.map((sample) => outcome(() => score(sample, state)));

function batch(scores, length) {
  if (!Array.isArray(scores) || scores.length !== length) {
    throw new Failed(`scoreBatch gave ${Array.isArray(scores) ? `${scores.length} scores` : what(scores)} for ${length} samples`);
  }
  return scores.map((score) => outcome(() => score));
}

function outcome(score) {
  let value;
  try {
    value = score();
  } catch (error) {
    return { tag: "failed", val: describe(error) };
  }
  if (value === null || value === undefined) return { tag: "no-score" };
  if (value instanceof Failed) return { tag: "failed", val: describe(value) };
  if (typeof value === "boolean") value = Number(value);
  if (typeof value !== "number") return { tag: "failed", val: `the score is no number but ${what(value)}` };
  if (!Number.isFinite(value)) return { tag: "failed", val: `the score is ${value}, not a finite number` };
  return { tag: "score", val: value };
}
