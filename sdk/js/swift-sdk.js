/**
 * What authors of swift plugins write in JavaScript and TypeScript; the types are in swift-sdk.d.ts.
 *
 * A plugin is a file that declares functions and classes:
 *
 *     import { reward } from "../sdk/swift-sdk.js";
 *
 *     reward("overlap", { summary: "Share of words", settings: { lowercase: true } }, (sample, state, settings) => {
 *       if (sample.solution === null) return null; // no score
 *       return 0.5;
 *     });
 *
 * `swift plugin build` makes a component of it that can only compute. This file imports nothing of the component's world,
 * so a plugin's file can be unit-tested with any Node.
 */

/** What was declared: by kind, then by name, in the order of the file. */
export const declared = { reward: new Map(), metric: new Map(), preprocessor: new Map(), dataset: new Map(), template: new Map() };

/** What the host gives; set when a component is built. */
export const host = { log: null, files: null, http: null };

/** Throw it with words for the user, who sees them as they are, without name, file and line. */
export class Failed extends Error {
  name = "Failed";
}

/** Return or throw it for a row that is left out; the reason is the same for the same trouble: they are counted. */
export class Drop extends Error {
  name = "Drop";

  constructor(reason) {
    super(reason);
    this.reason = reason;
  }
}

function declare(kind, name, options, target, methods) {
  if (typeof name !== "string" || !/^[a-z0-9][a-z0-9_-]{0,63}$/.test(name)) {
    throw new TypeError(`${kind}("${name}"): a name has lower case letters, digits, "_" and "-"`);
  }
  if (declared[kind].has(name)) throw new TypeError(`there are two ${kind} functions named "${name}"`);
  if (typeof target !== "function") throw new TypeError(`${kind}("${name}", options, target): the target is a function or class`);
  const isClass = /^class\b/.test(Function.prototype.toString.call(target));
  const lacking = isClass && methods.find((names) => !names.split("|").some((one) => one in target.prototype));
  if (lacking) throw new TypeError(`the ${kind} class "${name}" lacks ${lacking.replace("|", " or ")}`);
  if (!isClass && methods.length > 2) throw new TypeError(`the ${kind} "${name}" must be a class with ${methods.join(", ")}`);
  declared[kind].set(name, { name, target, isClass, ...options });
  return target;
}

export const reward = (name, options, target) => declare("reward", name, options, target, ["score|scoreBatch"]);
export const metric = (name, options, target) => declare("metric", name, options, target, ["update", "state", "merge", "compute"]);
export const preprocessor = (name, options, target) => declare("preprocessor", name, options, target, ["process"]);
export const loader = (name, options, target) => declare("dataset", name, options, target, ["open", "rows"]);
export const template = (name, options, target) => declare("template", name, options, target, ["render", "stops", "parse"]);

function write(level, message) {
  if (host.log) host.log.log(level, String(message).toWellFormed());
  else globalThis.console?.error(`${level}: ${message}`);
}

/** Lines for the user and the author; `debug` is shown by `swift plugin test` and in debug logs alone. */
export const log = {
  debug: (message) => write("debug", message),
  info: (message) => write("info", message),
  warn: (message) => write("warn", message),
  error: (message) => write("error", message),
};

function asked(what, asks, name, ...given) {
  if (!host[what]) throw new Error(`this plugin has no ${what}: its plugin.toml needs \`${asks}\` under [capabilities]`);
  try {
    return host[what][name](...given);
  } catch (error) {
    throw error instanceof Error ? error : new Error(typeof error === "string" ? error : String(error?.payload ?? error));
  }
}

const readFiles = (name, ...given) => asked("files", "read = true", name, ...given);

/** Reading files that the user named or granted. */
export const files = {
  entries: (path) => readFiles("entries", path),
  size: (path) => readFiles("size", path),
  read: (path, offset, length) => new Uint8Array(readFiles("read", path, offset, length)),

  *lines(path, offset = 0, piece = 256 << 10) {
    let at = offset;
    let rest = new Uint8Array(0);
    for (;;) {
      const more = files.read(path, at + rest.length, piece);
      if (more.length === 0) break;
      const bytes = joined(rest, more);
      let start = 0;
      for (let end; (end = bytes.indexOf(10, start)) >= 0; start = end + 1) {
        at += end + 1 - start;
        yield [withoutReturn(bytes.subarray(start, end)), at];
      }
      rest = bytes.slice(start);
    }
    if (rest.length > 0) yield [withoutReturn(rest), at + rest.length];
  },
};

function joined(first, second) {
  const bytes = new Uint8Array(first.length + second.length);
  bytes.set(first);
  bytes.set(second, first.length);
  return bytes;
}

const withoutReturn = (line) => (line.at(-1) === 13 ? line.subarray(0, -1) : line);

/** HTTP to hosts that the user granted. */
export const http = {
  send(method, url, { headers = {}, body, json, timeout = 30 } = {}) {
    const pairs = Array.isArray(headers) ? [...headers] : Object.entries(headers);
    let bytes = typeof body === "string" ? utf8.encode(body) : (body ?? new Uint8Array(0));
    if (json !== undefined) {
      bytes = utf8.encode(JSON.stringify(json));
      pairs.push(["content-type", "application/json"]);
    }
    const request = { method, url, headers: pairs, body: bytes, timeout: Math.max(1, Math.round(timeout * 1000)) };
    const answer = asked("http", 'net = ["HOST"]', "send", request);
    const given = new Uint8Array(answer.body);
    return {
      status: answer.status,
      headers: answer.headers,
      body: given,
      text: () => utf8.decode(given),
      json: () => JSON.parse(utf8.decode(given)),
    };
  },
  get: (url, options) => http.send("GET", url, options),
  post: (url, options) => http.send("POST", url, options),
};

/** Text to bytes and back; there is no TextDecoder in a component. What is no UTF-8 becomes the replacement character. */
export const utf8 = {
  encode(text) {
    const bytes = [];
    for (const character of text.toWellFormed()) {
      const code = character.codePointAt(0);
      if (code < 0x80) bytes.push(code);
      else if (code < 0x800) bytes.push(0xc0 | (code >> 6), 0x80 | (code & 63));
      else if (code < 0x10000) bytes.push(0xe0 | (code >> 12), 0x80 | ((code >> 6) & 63), 0x80 | (code & 63));
      else bytes.push(0xf0 | (code >> 18), 0x80 | ((code >> 12) & 63), 0x80 | ((code >> 6) & 63), 0x80 | (code & 63));
    }
    return new Uint8Array(bytes);
  },

  decode(bytes) {
    const texts = [];
    let units = [];
    for (let at = 0; at < bytes.length; ) {
      const [code, length] = character(bytes, at);
      at += length;
      if (code > 0xffff) units.push(0xd7c0 + (code >> 10), 0xdc00 | (code & 0x3ff));
      else units.push(code);
      if (units.length > 4096) {
        texts.push(String.fromCharCode(...units));
        units = [];
      }
    }
    return texts.join("") + String.fromCharCode(...units);
  },
};

/** The code point at a place and how many bytes it has. */
function character(bytes, at) {
  const first = bytes[at];
  if (first < 0x80) return [first, 1];
  const length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  let code = first & (0x7f >> length);
  if (first < 0xc2 || first > 0xf4) return [0xfffd, 1];
  for (let next = 1; next < length; next++) {
    const byte = bytes[at + next];
    if ((byte & 0xc0) !== 0x80) return [0xfffd, next];
    code = (code << 6) | (byte & 63);
  }
  const shortest = [0, 0, 0x80, 0x800, 0x10000][length];
  return code < shortest || code > 0x10ffff || (code >= 0xd800 && code < 0xe000) ? [0xfffd, 1] : [code, length];
}

/** A generator of numbers in [0, 1) that depends on the seed alone: `random(state.seed)`. */
export function random(seed) {
  let state = (seed ^ Math.floor(seed / 2 ** 32)) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
