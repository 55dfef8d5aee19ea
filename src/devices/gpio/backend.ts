/**
 * Lines as the device sees them: calls return at once, failures are negative errnos, and edges are
 * told as they come. A real chip is in `backend-chip.ts`; the one in `backend-sim.ts` runs anywhere.
 */

/** Lines of a chip. */
export interface GpioChip {
  readonly lineCount: number;
  /** A name for each line, empty for none. */
  readonly names: readonly string[];
  /** A line that is watched changed its value. */
  onEdge: (line: number, isRising: boolean) => void;
  /** The chip is there again after calls failed with ENODEV: it knows nothing of what was set. */
  onReturn: () => void;
  /** What the line is when nobody has set it: one of DIRECTION. */
  initialDirection(line: number): number;
  /** NONE gives the line back; `value` is that of an output. @returns 0 or a negative errno */
  setDirection(line: number, direction: number, value: number): number;
  /** What is sensed on the line: 0, 1, or a negative errno. */
  value(line: number): number;
  /** Drives an output. @returns 0 or a negative errno */
  setValue(line: number, value: number): number;
  /** Edges to report: TRIGGER.RISING, FALLING, both or NONE. @returns 0 or a negative errno */
  watch(line: number, edges: number): number;
  close(): void;
}
