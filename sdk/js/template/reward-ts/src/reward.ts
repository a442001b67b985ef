/** A reward: how many of the solution's words the completion has. */

import { reward } from "../sdk/swift-sdk.js";

const options = { summary: "Share of the solution's words that the completion has", settings: { lowercase: true } };

// A number between 0 and 1; null without a solution: then this function does not count.
reward("overlap", options, (sample, state, settings) => {
  if (sample.solution === null) return null;
  const wanted = words(sample.solution, settings.lowercase);
  if (wanted.size === 0) return null;
  const found = words(sample.completion, settings.lowercase);
  return [...wanted].filter((word) => found.has(word)).length / wanted.size;
});

/** The distinct words of a text; only ASCII letters have a lower case here. */
function words(text: string, lowercase: boolean): Set<string> {
  const plain = lowercase ? text.replace(/[A-Z]+/g, (letters) => letters.toLowerCase()) : text;
  return new Set(plain.split(/[ \t\n\v\f\r]+/).filter((word) => word !== ""));
}
