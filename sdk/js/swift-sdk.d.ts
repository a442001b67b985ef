/** What authors of swift plugins write in TypeScript and JavaScript. */

/** Any value of JSON. */
export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

/** Declared settings: a name and its default, whose type a user's value must have. `null` takes any. */
export type Declared = { [name: string]: unknown };

/** Throw it with words for the user, who sees them as they are, without name, file and line. */
export class Failed extends Error {}

/** Return or throw it for a row that is left out; the reason is the same for the same trouble: they are counted. */
export class Drop extends Error {
  constructor(reason: string);
  readonly reason: string;
}

interface Options<S> {
  /** One line for lists. */
  summary?: string;
  settings?: S;
}

/** A class that is made without arguments and configured. */
type Class<T, S> = new () => T & { configure?(settings: S): void };

// -- rewards ------------------------------------------------------------------------------------------------------------

export interface Sample {
  /** Roles are system, user, assistant, tool_call, tool_response. */
  prompt: { role: string; content: string }[];
  completion: string;
  /** Tokens of the completion, its end included. */
  completionTokens: number;
  /** The column `solution`, as text. */
  solution: string | null;
  /** Every other column of the row. */
  columns: { readonly [name: string]: any };
}

export interface State {
  step: number;
  /** 0 where it is not known. */
  maxSteps: number;
  epoch: number;
  /** The run's seed, the only source of chance: `random(state.seed)`. */
  seed: number;
  /** Whatever else is known of the run. */
  extra: { readonly [name: string]: any };
}

/** A finite number; none (`null`): the function does not count for this sample. */
export type Score = number | boolean | null | undefined;

export interface Reward {
  score(sample: Sample, state: State): Score;
}

/** For a score that depends on the other samples; with `wholeBatch` a batch is never cut. */
export interface BatchReward {
  scoreBatch(samples: Sample[], state: State): (Score | Failed)[];
}

/**
 * Declares a reward function: `swift plugin run FILE:name` calls it by `name`. An exception fails the sample with its
 * name, message and line as the reason; `Failed` with its words alone.
 */
export function reward<S extends Declared = {}>(
  name: string,
  options: Options<S> & { wholeBatch?: boolean },
  target: ((sample: Sample, state: State, settings: S) => Score) | Class<Reward, S> | Class<BatchReward, S>,
): void;

// -- metrics ------------------------------------------------------------------------------------------------------------

/** A text; token ids, where -100 does not count; or numbers: scores of candidates, or their relevances. */
export type Answer = string | number[];

export interface Example {
  prediction: Answer;
  /** Any of them is right; none for a metric without references. */
  references: Answer[];
  /** Every other column of the row. */
  columns: { readonly [name: string]: any };
}

/** One object takes in a part of an evaluation; `merge` puts the parts together in the order of the data. */
export interface Metric<T = any> {
  update(examples: Example[]): void;
  /** What was taken in, as a value for JSON. */
  state(): T;
  /** Takes in such a value of another object. */
  merge(state: T): void;
  /** The numbers; `null` is left out (a mean of nothing). */
  compute(): { [name: string]: number | null };
}

/** Declares a metric: `swift plugin run FILE:name` calls it by `name`. */
export function metric<S extends Declared = {}>(
  name: string,
  options: Options<S> & { higherIsBetter?: boolean },
  target: Class<Metric, S>,
): void;

// -- datasets -----------------------------------------------------------------------------------------------------------

export type Row = { [name: string]: any };

/** What became of a source row: a canonical row, several, or none for a reason. */
export type Outcome = Row | Row[] | Drop;

export interface Preprocessor {
  process(row: Row): Outcome;
}

/**
 * Declares a row preprocessor: what the user writes after `--preprocessor` is `name`. `datasets` are ids of datasets that it
 * is for, so that it need not be named. An exception stops the dataset.
 */
export function preprocessor<S extends Declared = {}>(
  name: string,
  options: Options<S> & { datasets?: string[] },
  target: ((row: Row, settings: S) => Outcome) | Class<Preprocessor, S>,
): void;

export interface Source<S = {}> {
  /** An absolute path, or whatever else stood in the dataset string. */
  location: string;
  subset: string | null;
  settings: S;
}

/** An outcome, and the cursor after it: `open` with it goes on with the next row. */
export type Step = [Outcome, string | number];

export interface Loader<S = {}> {
  open(source: Source<S>, cursor: string | null): void;
  rows(): Iterable<Step>;
  /** Rows in all, if that is known at once. */
  length?(): number | null;
}

/**
 * Declares a loader: what the user writes before `::` in a dataset string is `name`. The simple form is a generator;
 * `endings` are those of files that it reads (".tsv"), so that it need not be named.
 */
export function loader<S extends Declared = {}>(
  name: string,
  options: Options<S> & { endings?: string[] },
  target: ((source: Source<S>, cursor: string | null) => Iterable<Step>) | (new () => Loader<S>),
): void;

// -- templates ----------------------------------------------------------------------------------------------------------

/** A piece of a message; a medium's value is its reference. */
export interface Part {
  kind: "text" | "image" | "audio" | "video";
  value: string;
}

export interface ToolCall {
  id?: string | null;
  name: string;
  /** JSON, as the row has it. */
  arguments: string;
}

export interface Message {
  role: "system" | "developer" | "user" | "assistant" | "tool";
  content: Part[];
  /** What the assistant thought before it answered. */
  reasoning: string | null;
  toolCalls: ToolCall[];
  toolCallId: string | null;
  name: string | null;
  /** Weight of the loss of what is said in it: what the row says, or else 1 for the assistant and 0 for others. */
  weight: number;
}

export interface Conversation {
  messages: Message[];
  /** Definitions of tools, each a JSON object in OpenAI's form, as text. */
  tools: string[];
  /** Template arguments; unknown ones are ignored. */
  arguments: { [name: string]: any };
  /** The run's date as YYYY-MM-DD. */
  date: string | null;
}

/** A piece of the rendered conversation; "special" is one special token, by its text. */
export interface Segment {
  kind: "text" | "special" | "image" | "audio" | "video";
  value: string;
  /** Weight of the loss of its tokens; 0 unless said. */
  weight?: number;
  /** Index of the message that it renders. */
  message?: number | null;
}

/** What a completion continues. */
export interface Context {
  tools: string[];
  arguments: { [name: string]: any };
  /** The end of the prompt that is already the assistant's, or "". */
  prefix: string;
}

export interface Parsed {
  content: string;
  reasoning?: string | null;
  toolCalls?: ToolCall[];
  /** Why it is not whole; nothing of the text is lost. */
  problems?: string[];
}

export type Event =
  | ["reasoning", string]
  | ["text", string]
  | ["tool-call", { id?: string | null; name: string }]
  | ["arguments", string]
  | ["problem", string];

export interface StreamingParser {
  push(text: string): Event[];
  finish(): Event[];
}

export interface Template {
  /** All messages, and for "prompt" the opening of an answer. An exception is the error of this conversation. */
  render(conversation: Conversation, form: "prompt" | "training"): Segment[];
  /** Texts that end an answer. */
  stops(): string[];
  /** The inverse of rendering an assistant's message. */
  parse(completion: string, context: Context): Parsed;
  /** If it can say early what it reads; without it all comes at the end. */
  parser?(context: Context): StreamingParser;
}

/**
 * Declares a chat template: what the user writes after `--template` is `name`. Its settings hold the tokenizer's
 * `bos_token`, `eos_token`, ... too. A static method `claims(config, tokenizerConfig)` says whether it fits a checkpoint.
 */
export function template<S extends Declared = {}>(
  name: string,
  options: Options<S>,
  target: Class<Template, S & { [token: `${string}_token`]: string }> & { claims?(config: any, tokenizerConfig: any): boolean },
): void;

// -- what a plugin may call ---------------------------------------------------------------------------------------------

/** Lines for the user and the author; `debug` is shown by `swift plugin test` and in debug logs alone. */
export const log: {
  debug(message: unknown): void;
  info(message: unknown): void;
  warn(message: unknown): void;
  error(message: unknown): void;
};

/** Reading files that the user named or granted; `read = true` under `[capabilities]` of plugin.toml asks for it. */
export const files: {
  /** What lies in a folder, sorted by name. */
  entries(path: string): { name: string; isFolder: boolean; size: number }[];
  size(path: string): number;
  /** At most `length` bytes from `offset` on; fewer only at the end. */
  read(path: string, offset: number, length: number): Uint8Array;
  /** Lines from byte `offset` on, without their ends, each with the offset of the one after it. */
  lines(path: string, offset?: number): Generator<[Uint8Array, number]>;
};

export interface Request {
  headers?: { [name: string]: string } | [string, string][];
  body?: string | Uint8Array;
  /** A value to send instead of a body. */
  json?: Json;
  /** In seconds. */
  timeout?: number;
}

/** Any answer, whatever its status. */
export interface Response {
  status: number;
  headers: [string, string][];
  body: Uint8Array;
  text(): string;
  json(): any;
}

/** HTTP to hosts that the user granted; `net = ["HOST"]` under `[capabilities]` of plugin.toml asks for it. */
export const http: {
  send(method: string, url: string, request?: Request): Response;
  get(url: string, request?: Request): Response;
  post(url: string, request?: Request): Response;
};

/** Text to bytes and back; there is no TextDecoder in a component. */
export const utf8: { encode(text: string): Uint8Array; decode(bytes: Uint8Array): string };

/** A generator of numbers in [0, 1) that depends on the seed alone. */
export function random(seed: number): () => number;

declare global {
  /** Writes to the log. */
  var console: { [level in "log" | "info" | "debug" | "warn" | "error"]: (...values: unknown[]) => void };
}
