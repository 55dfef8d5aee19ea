/** `vlo demo`: shows in seconds that all of it works here, with real files. */
import { runDemo } from '../hal/demo.js';
import { wrapped } from '../hal/demo-text.js';
import { print } from './output.js';

const GREEN = 32;
const RED = 31;
/** Where the text of a step starts. */
const INDENTATION = 14;

export interface DemoCommandOptions {
  readonly keep?: boolean;
}

/** Colours are for people at a terminal who did not ask to be spared (https://no-color.org). */
function coloured(text: string, colour: number): string {
  const isSpared = (process.env.NO_COLOR ?? '') !== '';
  return process.stdout.isTTY === true && !isSpared ? `\x1b[${colour}m${text}\x1b[0m` : text;
}

/** @throws VloError VLO_DEMO_FAILED */
export async function demo(options: DemoCommandOptions): Promise<void> {
  const aborter = new AbortController();
  // npm passes the terminal's Ctrl-C on a second time: that one must not cut the cleaning short.
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
    process.on(signal, () => aborter.abort());
  }
  await runDemo({
    keep: options.keep === true,
    signal: aborter.signal,
    onText: print,
    onStep: (isGood, seconds, text) => {
      const mark = isGood ? coloured('ok  ', GREEN) : coloured('FAIL', RED);
      const [first, ...more] = wrapped(text, INDENTATION);
      print(`${mark} ${seconds.toFixed(2).padStart(5)} s  ${first}`);
      for (const line of more) print(' '.repeat(INDENTATION) + line);
    },
  });
}
