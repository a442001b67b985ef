/** The interface `swift:dataset/preprocessors` over the author's preprocessors. */

import { Drop, Failed, declared } from "../swift-sdk.js";
import { describe, fallible, find, infallible, made, outcome, settingsOf } from "./common.js";

/** Most characters of a row that are shown with an error. */
const SHOWN = 200;

let chosen;

export const preprocessors = {
  preprocessors: infallible(() =>
    [...declared.preprocessor.values()].map((one) => ({ name: one.name, summary: one.summary ?? "", datasets: one.datasets ?? [] })),
  ),

  configure: fallible((name, config) => {
    const entry = find("preprocessor", name);
    const settings = settingsOf(entry, config);
    const object = made(entry, settings);
    chosen = entry.isClass ? (row) => object.process(row) : (row) => object(row, settings);
  }),

  process: fallible((rows) => rows.map(one)),
};

function one(text) {
  try {
    return outcome(chosen(JSON.parse(text)));
  } catch (error) {
    if (error instanceof Drop) return outcome(error);
    throw new Failed(`${describe(error)}, at the row ${text.length > SHOWN ? `${text.slice(0, SHOWN)}...` : text}`);
  }
}
