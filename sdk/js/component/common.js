/** What the interfaces of all kinds share: settings, the line that is left of an exception, columns; and `seal`. */

import { Drop, Failed, declared, host, log, random } from "../swift-sdk.js";

let sources = "/";

/** `TypeError: cannot read property 'x' of null (reward.js:12)`; the words alone for `Failed`. */
export function describe(error) {
  if (!(error instanceof Error)) return String(error).toWellFormed();
  if (error instanceof Failed) return error.message.toWellFormed();
  let text = error.name + (error.message ? `: ${error.message}` : "");
  const place = placeOf(error);
  if (place) text += ` (${place})`;
  if (error.cause !== undefined && error.cause !== error) text += `, caused by ${describe(error.cause)}`;
  return text.toWellFormed();
}

/** The innermost line of the author's. */
function placeOf(error) {
  for (const line of String(error.stack ?? "").split("\n")) {
    const found = /\(?(\/[^():]+):(\d+)(?::\d+)?\)?$/.exec(line.trim());
    if (found && !found[1].startsWith("/sdk/") && found[1] !== "/entry.js") {
      return `${found[1].startsWith(sources) ? found[1].slice(sources.length) : found[1].slice(1)}:${found[2]}`;
    }
  }
  return "";
}

/** For an export that has an error: an exception becomes its text. */
export const fallible = (run) => (...given) => {
  try {
    return run(...given);
  } catch (error) {
    throw describe(error);
  }
};

/** For an export that has no error: an exception ends the call with its text. */
export const infallible = (run) => (...given) => {
  try {
    return run(...given);
  } catch (error) {
    host.log.abort(describe(error));
  }
};

/** The declared function of this name. */
export function find(kind, name) {
  const found = declared[kind].get(name);
  if (!found) throw new Failed(`this plugin has no ${kind} "${name}"; it has ${[...declared[kind].keys()].join(", ")}`);
  return found;
}

const KINDS = { boolean: "true or false", number: "a number", string: "a text", array: "a list", object: "an object" };
const kindOf = (value) => (Array.isArray(value) ? "array" : typeof value);

/** The user's settings over the declared ones; a name that is not declared and not `offered` is refused. */
export function settingsOf(entry, config, offered = () => false) {
  let given;
  try {
    given = JSON.parse(config);
  } catch (error) {
    throw new Failed(`the settings are no JSON: ${error.message}`);
  }
  if (given === null || kindOf(given) !== "object") throw new Failed("the settings must be a JSON object");
  const known = entry.settings ?? {};
  for (const [name, value] of Object.entries(given)) {
    if (offered(name)) continue;
    if (!Object.hasOwn(known, name)) {
      const names = Object.keys(known).join(", ") || "none";
      throw new Failed(`${entry.name} has no setting "${name}" (its settings: ${names})`);
    }
    const wanted = known[name];
    if (wanted !== null && wanted !== undefined && kindOf(wanted) !== (value === null ? "null" : kindOf(value))) {
      throw new Failed(`the setting "${name}" must be ${KINDS[kindOf(wanted)]}, not ${JSON.stringify(value).slice(0, 100)}`);
    }
  }
  return Object.freeze({ ...known, ...given });
}

/** An object of the author's class, configured; or the function. */
export function made(entry, settings) {
  if (!entry.isClass) return entry.target;
  const object = new entry.target();
  object.configure?.(settings);
  return object;
}

/** Columns by name; a value is parsed from its JSON when it is first read. */
export function columnsOf(pairs) {
  const columns = {};
  for (const [name, text] of pairs) {
    let value;
    let read = false;
    const get = () => {
      if (!read) [value, read] = [JSON.parse(text), true];
      return value;
    };
    Object.defineProperty(columns, name, { get, enumerable: true });
  }
  return columns;
}

/** What became of one row of the source. */
export function outcome(result) {
  if (result instanceof Drop) return { tag: "dropped", val: String(result.reason).toWellFormed() };
  if (Array.isArray(result)) return { tag: "rows", val: result.map(rowText) };
  return { tag: "row", val: rowText(result) };
}

function rowText(row) {
  if (row === null || typeof row !== "object" || Array.isArray(row) || row instanceof Promise) {
    throw new TypeError(`a row must be an object, not ${what(row)}; a row that is left out is new Drop("reason")`);
  }
  return JSON.stringify(row);
}

/** A value's kind, for messages. */
export function what(value) {
  if (value instanceof Promise) return "a promise (a plugin's functions are not async)";
  return value === null ? "null" : Array.isArray(value) ? "an array" : typeof value;
}

const NO_CLOCK = "a plugin has no clock: the same input must give the same result";

function noClock() {
  throw new Error(NO_CLOCK);
}

/**
 * Checks what the author's file declared, and replaces what has nothing behind it in a component, so that using it is an
 * exception with a line instead of a trap without a word.
 */
export function seal(kinds, folder, entry, given) {
  Object.assign(host, given);
  sources = `/${folder}/`;
  for (const kind of kinds) {
    const call = kind === "dataset" ? "loader" : kind;
    if (declared[kind].size === 0) throw new Failed(`plugin.toml says \`${kind}\`, and ${entry} declares none: call ${call}(...)`);
  }
  for (const kind of Object.keys(declared)) {
    if (declared[kind].size > 0 && !kinds.includes(kind)) {
      throw new Failed(`${entry} declares a ${kind}, and \`kind\` in plugin.toml does not name it: add "${kind}"`);
    }
  }
  const RealDate = Date;
  globalThis.Date = new Proxy(RealDate, {
    apply: noClock,
    construct: (target, values, maker) => (values.length === 0 ? noClock() : Reflect.construct(target, values, maker)),
    get: (target, name) => (name === "now" ? noClock : Reflect.get(target, name)),
  });
  RealDate.prototype.constructor = globalThis.Date;
  globalThis.performance = { now: noClock };
  Math.random = random(0);
  const shown = (values) => values.map((one) => (typeof one === "string" ? one : (JSON.stringify(one) ?? String(one)))).join(" ");
  const line = (level) => (...values) => log[level](shown(values));
  globalThis.console = { log: line("info"), info: line("info"), debug: line("debug"), warn: line("warn"), error: line("error") };
}
