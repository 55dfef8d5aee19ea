/** Child processes: what is played goes to one's input, what is recorded is another's output. */
import { type ChildProcess, spawn } from 'node:child_process';
import {
  bytesInPipe,
  createPipe,
  ERRNO,
  type Fd,
  IOV_MAX,
  IovecList,
  readVector,
  writeVector,
} from '../../native/index.js';
import type { ChainReader, ChainWriter } from '../../virtio/index.js';
import type { PcmPort, SoundBackEnd } from './backend.js';
import { NullPort } from './backend-null.js';
import type { PcmOffer, PcmParams } from './format.js';
import { SND_D } from './wire.js';

/** How long in milliseconds until a program that ended is started again. */
const RESTART_MS = 1000;
/** How long a program may play on when the next one waits for it, and then take to end. */
const END_MS = 1000;

export interface CommandOptions {
  /** Shell commands with `{format}`, `{rate}`, `{channels}` and `{stream}`; null for silence. */
  readonly playbackCommand: string | null;
  readonly captureCommand: string | null;
  readonly limits: PcmOffer;
  readonly log: (line: string) => void;
}

const list = new IovecList(64);

export class CommandSound implements SoundBackEnd {
  private readonly options: CommandOptions;
  /** The last program of each stream, which may still be playing what it was given. */
  private readonly programs = new Map<number, PcmProgram>();

  constructor(options: CommandOptions) {
    this.options = options;
  }

  offer(): PcmOffer {
    return this.options.limits;
  }

  open(streamId: number, direction: number, params: PcmParams): PcmPort {
    const { playbackCommand, captureCommand, log } = this.options;
    const isOutput = direction === SND_D.OUTPUT;
    const template = isOutput ? playbackCommand : captureCommand;
    if (template === null) return new NullPort(params);
    const command = template
      .replaceAll('{format}', params.format.name)
      .replaceAll('{rate}', `${params.rate}`)
      .replaceAll('{channels}', `${params.channels}`)
      .replaceAll('{stream}', `${streamId}`);
    const before = this.programs.get(streamId)?.running ?? null;
    // What lies in the pipe is heard late: no more than the driver's own buffer.
    const port = new PcmProgram(command, isOutput, params.bufferBytes, log, before);
    this.programs.set(streamId, port);
    return port;
  }

  close(): void {
    for (const program of this.programs.values()) program.kill();
  }
}

/** A program at the other end of a pipe. One that ends is started again. */
class PcmProgram implements PcmPort {
  private readonly command: string;
  private readonly isOutput: boolean;
  private readonly pipeSize: number;
  private readonly log: (line: string) => void;
  private fd: Fd | null = null;
  private child: ChildProcess | null = null;
  private timer: NodeJS.Timeout | null = null;
  private isClosed = false;
  /** The program before this one, as long as it is waited for. */
  private before: PcmProgram | null;
  /** How the program ended, while the last of what it has recorded lies in the pipe. */
  private ending: string | null = null;
  /** Called when the program has ended and will not be started again. */
  private onEnd: (() => void) | null = null;

  constructor(
    command: string,
    isOutput: boolean,
    pipeSize: number,
    log: (line: string) => void,
    before: PcmProgram | null,
  ) {
    this.command = command;
    this.isOutput = isOutput;
    this.pipeSize = pipeSize;
    this.log = log;
    this.before = before;
    // Two programs at a time might not get the sound card.
    if (before === null) this.start();
    else before.endSoon(() => this.start());
  }

  /** The program that runs for this stream: this one, or the one that it waits for. */
  get running(): PcmProgram | null {
    return this.child === null ? this.before : this;
  }

  private start(): void {
    this.before = null;
    if (this.isClosed) return;
    try {
      this.run();
    } catch (error) {
      this.ended((error as Error).message); // No descriptors, or no processes, for now.
    }
  }

  private run(): void {
    const [reading, writing] = createPipe(this.pipeSize);
    const [ours, theirs] = this.isOutput ? [writing, reading] : [reading, writing];
    ours.setNonBlocking();
    const stdin = this.isOutput ? theirs.number : 'ignore';
    const stdout = this.isOutput ? 'ignore' : theirs.number;
    // A process group of its own: a shell's children end with it.
    let child: ChildProcess;
    try {
      child = spawn('/bin/sh', ['-c', this.command], {
        stdio: [stdin, stdout, 'inherit'],
        detached: true,
      });
    } catch (error) {
      ours.close();
      throw error;
    } finally {
      theirs.close();
    }
    this.fd = ours;
    this.child = child;
    let isGone = false;
    const gone = (how: string): void => {
      if (isGone) return;
      isGone = true;
      this.child = null;
      const isLeft = !this.isOutput && this.fd !== null && bytesInPipe(this.fd) > 0;
      if (isLeft) this.ending = how;
      else this.ended(how);
    };
    child.on('error', (error) => gone(error.message));
    child.on('exit', (status, signal) => gone(`status ${status ?? signal}`));
  }

  private ended(how: string): void {
    this.ending = null;
    this.fd?.close();
    this.fd = null;
    this.setTimer(null);
    if (this.isClosed) {
      this.onEnd?.();
      return;
    }
    this.log(`'${this.command}' ended with ${how}; it is started again`);
    this.setTimer(() => this.start(), RESTART_MS);
  }

  /** One at a time; null for none. */
  private setTimer(callback: (() => void) | null, delayMs = 0): void {
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = callback === null ? null : setTimeout(callback, delayMs).unref();
  }

  play(reader: ChainReader): number {
    if (this.fd === null) return this.waitOrFail();
    list.clear();
    reader.gather(list, reader.remaining);
    const result = writeVector(this.fd.number, list.address, Math.min(list.count, IOV_MAX));
    if (result > 0) reader.skip(result);
    return result === -ERRNO.EAGAIN! ? 0 : result;
  }

  record(writer: ChainWriter): number {
    if (this.fd === null) return this.waitOrFail();
    list.clear();
    writer.gather(list, writer.remaining);
    const result = readVector(this.fd.number, list.address, Math.min(list.count, IOV_MAX));
    if (result > 0) writer.advance(result);
    const isEmpty = result === 0 || result === -ERRNO.EAGAIN!;
    if (isEmpty && this.ending !== null) this.ended(this.ending);
    if (result === 0 || this.fd === null) return -ERRNO.EPIPE!;
    return result === -ERRNO.EAGAIN! ? 0 : result;
  }

  /** One that waits for its predecessor's end is not failing. */
  private waitOrFail(): number {
    return this.timer === null ? 0 : -ERRNO.EPIPE!;
  }

  /** No more comes: a player ends when it has played what it was given. */
  close(): void {
    if (this.isClosed) return;
    this.isClosed = true;
    this.ending = null;
    this.fd?.close();
    this.fd = null;
    this.setTimer(null);
  }

  /** Somebody waits for its end; the last one to do so is told. */
  private endSoon(onEnd: () => void): void {
    this.onEnd = onEnd;
    if (this.timer === null) this.setTimer(() => this.kill(), END_MS);
  }

  /** Ends what runs, and does not start it again. */
  kill(): void {
    this.before?.kill();
    this.close();
    if (this.child === null) return;
    this.signal('SIGTERM');
    this.setTimer(() => this.signal('SIGKILL'), END_MS);
  }

  private signal(name: 'SIGTERM' | 'SIGKILL'): void {
    const pid = this.child?.pid;
    if (pid === undefined) return;
    try {
      process.kill(-pid, name);
    } catch {
      // It has ended, and the news of it is on its way.
    }
  }
}
