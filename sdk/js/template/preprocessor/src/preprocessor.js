/** A row preprocessor: rows with instruction, input and output to messages. */

import { Drop, preprocessor } from "../sdk/swift-sdk.js";

preprocessor("alpaca", { summary: "Rows with instruction, input and output to messages" }, (row) => {
  if (!row.output) return new Drop("no answer");
  return {
    messages: [
      { role: "user", content: row.input ? `${row.instruction}\n${row.input}` : row.instruction },
      { role: "assistant", content: row.output },
    ],
  };
});
