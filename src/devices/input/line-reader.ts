/** Lines of a stream: a pipe, or standard input. */
import type { Socket } from 'node:net';
import type { Readable } from 'node:stream';

/** Lines that are kept: more are left in the pipe. */
const LINES_MAX = 1000;
/** Longest line, in characters. */
const LINE_MAX = 65536;

export class LineReader {
  /** There is another line. */
  onLine: () => void = () => {};
  private readonly stream: Readable;
  private readonly log: (line: string) => void;
  private readonly lines: string[] = [];
  /** Lines before this one are done with. */
  private head = 0;
  /** The beginning of a line whose end has not come. */
  private rest = '';
  /** What comes up to the end of the line belongs to one that is too long. */
  private isSkipping = false;
  private isPaused = false;

  constructor(stream: Readable, log: (line: string) => void) {
    this.stream = stream;
    this.log = log;
    stream.setEncoding('utf8').on('data', this.take).once('end', this.end);
    stream.on('error', ({ message }) => log(`the script cannot be read any more: ${message}`));
    (stream as Partial<Socket>).unref?.();
  }

  private readonly take = (text: string): void => {
    this.lines.splice(0, this.head);
    this.head = 0;
    const parts = (this.rest + text).split('\n');
    this.rest = parts.pop()!;
    for (const part of parts) this.add(part);
    if (this.rest.length > LINE_MAX) {
      this.tooLong();
      this.isSkipping = true;
    }
    if (this.isSkipping) this.rest = '';
    if (this.lines.length > LINES_MAX) {
      this.isPaused = true;
      this.stream.pause();
    }
    this.onLine();
  };

  /** The last line needs no end of its own. */
  private readonly end = (): void => {
    this.add(this.rest);
    this.rest = '';
    this.onLine();
  };

  private add(line: string): void {
    if (this.isSkipping) this.isSkipping = false;
    else if (line.length > LINE_MAX) this.tooLong();
    else if (line.trim() !== '') this.lines.push(line);
  }

  private tooLong(): void {
    this.log(`a line of the script is left out: it has more than ${LINE_MAX} characters`);
  }

  /** Resolves with the first line, or null when none comes in time. */
  first(ms: number): Promise<string | null> {
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.stream.off('end', done);
        this.onLine = () => {};
        resolve(this.next());
      };
      const timer = setTimeout(done, ms);
      this.stream.once('end', done);
      this.onLine = () => {
        if (this.lines.length > 0) done();
      };
    });
  }

  /** The next line; null when there is none now. */
  next(): string | null {
    if (this.head < this.lines.length) return this.lines[this.head++]!;
    if (this.isPaused) this.stream.resume();
    this.isPaused = false;
    return null;
  }

  /** The line that {@link next} gave last will be given again. */
  putBack(): void {
    this.head -= 1;
  }

  close(): void {
    this.stream.off('data', this.take).off('end', this.end);
    if (this.stream === process.stdin) this.stream.pause();
    else this.stream.destroy();
  }
}
