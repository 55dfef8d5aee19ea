/**
 * A simulated chip: its inputs are driven by scripts, by a socket, or by wires from its outputs.
 * For tests it can fail in every way a real chip can.
 */
import type { GpioChip } from './backend.js';
import type { EndWatch, LineHost, LineState } from './line-commands.js';
import { DIRECTION, TRIGGER } from './wire.js';

const ENODEV = 19;

/** Somebody outside who wants to hear of edges. */
interface Observer {
  readonly line: number;
  readonly edges: number;
  readonly report: (value: number) => void;
}

export class SimulatedChip implements GpioChip, LineHost {
  readonly lineCount: number;
  readonly names: readonly string[];
  onEdge: (line: number, isRising: boolean) => void = () => {};
  onReturn: () => void = () => {};
  /** Set by tests: all calls return it instead of doing anything. */
  failure = 0;
  private readonly directions: Uint8Array;
  private readonly outputs: Uint8Array;
  private readonly levels: Uint8Array;
  private readonly edges: Uint8Array;
  /** Input that each line's output is wired to, or -1. */
  private readonly wires: Int32Array;
  private readonly observers = new Set<Observer>();

  constructor(lineCount: number, names: readonly string[] = []) {
    this.lineCount = lineCount;
    this.names = Array.from({ length: lineCount }, (_, line) => names[line] ?? '');
    this.directions = new Uint8Array(lineCount);
    this.outputs = new Uint8Array(lineCount);
    this.levels = new Uint8Array(lineCount);
    this.edges = new Uint8Array(lineCount);
    this.wires = new Int32Array(lineCount).fill(-1);
  }

  initialDirection(): number {
    return DIRECTION.NONE;
  }

  setDirection(line: number, direction: number, value: number): number {
    if (this.failure !== 0) return this.failure;
    const before = this.sensed(line);
    this.directions[line] = direction;
    this.outputs[line] = value;
    this.changed(line, before);
    return 0;
  }

  value(line: number): number {
    return this.failure !== 0 ? this.failure : this.sensed(line);
  }

  setValue(line: number, value: number): number {
    if (this.failure !== 0) return this.failure;
    const before = this.sensed(line);
    this.outputs[line] = value;
    this.changed(line, before);
    return 0;
  }

  watch(line: number, edges: number): number {
    if (this.failure !== 0) return this.failure;
    this.edges[line] = edges;
    return 0;
  }

  close(): void {}

  /** From outside: the level that an input senses. */
  drive(line: number, value: number): void {
    const before = this.sensed(line);
    this.levels[line] = value;
    this.changed(line, before);
  }

  /** From outside: the input senses what the output drives, from now on. */
  wire(output: number, input: number): void {
    this.wires[output] = input;
    this.drive(input, this.sensed(output));
  }

  observe(line: number, edges: number, report: (value: number) => void): EndWatch {
    const observer = { line, edges, report };
    this.observers.add(observer);
    return () => void this.observers.delete(observer);
  }

  state(line: number): LineState {
    return {
      name: this.names[line]!,
      direction: this.directions[line]!,
      value: this.sensed(line),
      edges: this.edges[line]!,
    };
  }

  /** For tests: the chip vanishes, with all that was set, or is there again. */
  setGone(isGone: boolean): void {
    this.failure = isGone ? -ENODEV : 0;
    if (isGone) {
      this.directions.fill(DIRECTION.NONE);
      this.edges.fill(TRIGGER.NONE);
    } else this.onReturn();
  }

  private sensed(line: number): number {
    return this.directions[line] === DIRECTION.OUT ? this.outputs[line]! : this.levels[line]!;
  }

  private changed(line: number, before: number): void {
    const value = this.sensed(line);
    const edge = value === 1 ? TRIGGER.RISING : TRIGGER.FALLING;
    if (value !== before) {
      if ((this.edges[line]! & edge) !== 0) this.onEdge(line, value === 1);
      for (const observer of this.observers) {
        if (observer.line === line && (observer.edges & edge) !== 0) observer.report(value);
      }
    }
    const wired = this.wires[line]!;
    if (wired < 0 || this.directions[line] !== DIRECTION.OUT) return;
    // Wires may make a circle, and the driver may make outputs of all of it: news goes around once.
    if (this.levels[wired] !== value) this.drive(wired, value);
  }
}
