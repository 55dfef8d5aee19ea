/** Input from a script (`script.ts`): a file, a named pipe, or standard input. */
import { constants, openSync, readFileSync, statSync } from 'node:fs';
import { Socket } from 'node:net';
import type { Readable } from 'node:stream';
import { VloError } from '../../errors.js';
import { EventList, type InputDescription, type InputSink, type InputSource } from './backend.js';
import { nameOf } from './codes.js';
import { LineReader } from './line-reader.js';
import { describeDevice, parseLine, ScriptCompiler, type ScriptStep } from './script.js';
import { EV, SYN } from './wire.js';

export interface ScriptOptions {
  /** `-` is standard input. */
  readonly path: string;
  /** What the device is, unless the script's first line tells. */
  readonly description: InputDescription;
  /** Play a file again when it is over. */
  readonly isRepeated: boolean;
  readonly log: (line: string) => void;
}

/** How far a script may lag behind its own times before they count from now on, in ms. */
const LATE_MS_MAX = 10_000;
/** A stream that is silent for longer has no times to keep: the next line is due when it comes. */
const SILENT_MS_MAX = 20;
/** How long to wait for the first line of a stream, which may say what the device is. */
const FIRST_LINE_MS = 1000;

const accessError = (path: string, reason: string, cause?: unknown): VloError =>
  new VloError('VLO_SOURCE_ACCESS', `script '${path}' ${reason}; check --script`, { cause });

/** Opens a script. @throws VloError VLO_SOURCE_ACCESS; VLO_OPTION_INVALID with the wrong line */
export async function openScript(options: ScriptOptions): Promise<ScriptSource> {
  const { path } = options;
  if (path === '-') return openStream(process.stdin, options);
  try {
    const stat = statSync(path);
    if (stat.isFile()) return openText(readFileSync(path, 'utf8'), options);
    if (!stat.isFIFO()) throw accessError(path, 'is neither a file nor a pipe');
    // Open for writing too: the pipe does not end when a writer goes, and the next one goes on.
    const fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
    return await openStream(new Socket({ fd, readable: true, writable: false }), options);
  } catch (cause) {
    if (cause instanceof VloError) throw cause;
    const code = (cause as NodeJS.ErrnoException).code ?? 'unknown error';
    throw accessError(path, `cannot be opened (${code})`, cause);
  }
}

function openText(text: string, options: ScriptOptions): ScriptSource {
  const lines = text.split('\n');
  let { description } = options;
  let compiler: ScriptCompiler | null = null;
  const steps: ScriptStep[] = [];
  for (const [index, line] of lines.entries()) {
    try {
      const value = parseLine(line);
      if (value === null) continue;
      if (compiler === null && value.device !== undefined) {
        description = describeDevice(value.device);
        compiler = new ScriptCompiler(description);
        continue;
      }
      compiler ??= new ScriptCompiler(description);
      steps.push(compiler.compile(value));
    } catch (error) {
      if (!(error instanceof VloError)) throw error;
      const place = `input: --script: ${options.path}:${index + 1}`;
      throw new VloError('VLO_OPTION_INVALID', `${place}: ${error.message}`);
    }
  }
  return new ScriptSource({ ...options, description }, steps, null);
}

/** Of a stream, the first line is waited for: it may say what the device is. */
async function openStream(stream: Readable, options: ScriptOptions): Promise<ScriptSource> {
  const reader = new LineReader(stream, options.log);
  const first = await reader.first(FIRST_LINE_MS);
  let { description } = options;
  if (first !== null) {
    try {
      const value = parseLine(first);
      if (value?.device !== undefined) description = describeDevice(value.device);
      else reader.putBack();
    } catch (error) {
      reader.close();
      if (!(error instanceof VloError)) throw error;
      throw new VloError('VLO_OPTION_INVALID', `input: --script: line 1: ${error.message}`);
    }
  }
  return new ScriptSource({ ...options, description }, [], reader);
}

/** Plays steps in time. */
export class ScriptSource implements InputSource {
  readonly description: InputDescription;
  readonly isLive = false;
  private readonly options: ScriptOptions;
  private readonly compiler: ScriptCompiler;
  private readonly steps: readonly ScriptStep[];
  private readonly reader: LineReader | null;
  private readonly list = new EventList();
  private sink: InputSink | null = null;
  private timer: NodeJS.Timeout | null = null;
  private index = 0;
  private step: ScriptStep | null = null;
  /** Events of the step that were told. */
  private at = 0;
  private isHeld = false;
  private startedAt = 0;
  /** When the last step was due: steps that are late do not make the next ones later. */
  private lastDue = 0;
  /** Since when there is no line; null while there are some. */
  private silentSince: number | null = null;

  constructor(options: ScriptOptions, steps: readonly ScriptStep[], reader: LineReader | null) {
    this.options = options;
    this.description = options.description;
    this.compiler = new ScriptCompiler(options.description);
    this.steps = steps;
    this.reader = reader;
  }

  start(sink: InputSink): void {
    this.sink = sink;
    this.startedAt = performance.now();
    this.lastDue = this.startedAt;
    if (this.reader !== null) this.reader.onLine = () => this.play();
    this.play();
  }

  resume(): void {
    this.isHeld = false;
    this.play();
  }

  private readonly wake = (): void => {
    this.timer = null;
    this.play();
  };

  /** Tells all that is due; comes back by a timer, by `resume`, or when a line is there. */
  private play(): void {
    if (this.sink === null || this.isHeld || this.timer !== null) return;
    for (;;) {
      this.step ??= this.nextStep();
      const { step } = this;
      if (step === null) return;
      if (this.at === 0 && !this.isDue(step)) return;
      if (!this.tell(step)) return;
      this.step = null;
      this.at = 0;
    }
  }

  /** True when a step is to be told; else a timer is set for it. */
  private isDue({ atMs, afterMs }: ScriptStep): boolean {
    const due = atMs === null ? this.lastDue + afterMs : this.startedAt + atMs;
    const now = performance.now();
    if (due > now) {
      // Node cuts fractions off: it would come back too early, and wait once more.
      this.timer = setTimeout(this.wake, Math.ceil(due - now));
      return false;
    }
    this.lastDue = Math.max(due, now - LATE_MS_MAX);
    return true;
  }

  /** Tells the reports of a step; false when one is held. */
  private tell({ events }: ScriptStep): boolean {
    const { list, sink } = this;
    while (this.at < events.length) {
      list.count = 0;
      for (let isOpen = true; isOpen; this.at += 3) {
        const [type, code] = [events[this.at]!, events[this.at + 1]!];
        list.add(type, code, events[this.at + 2]!);
        isOpen = type !== EV.SYN || code !== SYN.REPORT;
      }
      if (sink!.report(list)) continue;
      this.isHeld = true;
      return false;
    }
    return true;
  }

  private nextStep(): ScriptStep | null {
    if (this.reader !== null) return this.nextLine();
    if (this.index === this.steps.length) {
      const hasEvents = this.steps.some(({ events }) => events.length > 0);
      if (!this.options.isRepeated || !hasEvents) return null;
      this.index = 0;
      this.startedAt = this.lastDue;
    }
    return this.steps[this.index++] ?? null;
  }

  /** The next line of a stream that makes sense: the others are told of, and left out. */
  private nextLine(): ScriptStep | null {
    for (;;) {
      const line = this.reader!.next();
      if (line === null) {
        this.silentSince ??= performance.now();
        return null;
      }
      try {
        const value = parseLine(line);
        if (value === null) continue;
        const step = this.compiler.compile(value);
        this.spoken(step.afterMs);
        return step;
      } catch (error) {
        if (!(error instanceof VloError)) throw error;
        this.options.log(`a line of the script makes no sense: ${error.message}`);
      }
    }
  }

  /** A line is there: one that was waited for is due when it comes. */
  private spoken(afterMs: number): void {
    if (this.silentSince === null) return;
    const now = performance.now();
    if (now - this.silentSince > SILENT_MS_MAX) {
      this.lastDue = Math.max(this.lastDue, now - afterMs);
    }
    this.silentSince = null;
  }

  setStatus(type: number, code: number, value: number): void {
    this.options.log(`${nameOf(type, code)} is ${value === 0 ? 'off' : 'on'}`);
  }

  close(): void {
    if (this.timer !== null) clearTimeout(this.timer);
    this.sink = null;
    this.reader?.close();
  }
}
