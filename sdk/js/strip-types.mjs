/**
 * Turns TypeScript files into JavaScript in place: types become spaces, so that an exception's line is the author's line.
 * Arguments: the file of the package ts-blank-space, and the folder.
 */

import { readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [, , tool, folder] = process.argv;
const { default: blank } = await import(pathToFileURL(tool).href);

for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
  if (!entry.isFile() || !entry.name.endsWith(".ts")) continue;
  const path = join(entry.parentPath ?? entry.path, entry.name);
  if (!entry.name.endsWith(".d.ts")) {
    const refused = (node) => {
      throw new Error(`${path}: this cannot be erased from TypeScript: ${node.getText().slice(0, 80)}`);
    };
    writeFileSync(path.replace(/\.ts$/, ".js"), blank(readFileSync(path, "utf8"), refused));
  }
  rmSync(path);
}
