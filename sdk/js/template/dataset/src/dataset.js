/** A dataset loader: text files with a query, a tab and a response in each line. */

import { Drop, files, loader, utf8 } from "../sdk/swift-sdk.js";

const options = { summary: "Text files with a query and a response in each line", endings: [".tsv"] };

// Yields each row with the byte offset of the line after it, which is where reading goes on.
loader("tsv", options, function* (source, cursor) {
  for (const [line, offset] of files.lines(source.location, Number(cursor ?? 0))) {
    const text = utf8.decode(line);
    const tab = text.indexOf("\t");
    yield [tab < 0 ? new Drop("no tab") : row(text.slice(0, tab), text.slice(tab + 1)), offset];
  }
});

/** A canonical row. */
function row(query, response) {
  return { messages: [{ role: "user", content: query }, { role: "assistant", content: response }] };
}
