/** What commands write: lines for people on stderr, results on stdout. */

/** Writes a line of the log. */
export function log(line: string): void {
  process.stderr.write(`vlo: ${line}\n`);
}

/** Writes a line of a result. */
export function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

/** Resolves at SIGTERM or SIGINT. A second one ends the process at once. */
export function waitForSignal(): Promise<void> {
  return new Promise((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => resolve());
  });
}

/** The option that all commands around a HAL have. */
export const RUN_DIR_FLAGS = '--run-dir <path>';
export const RUN_DIR_HELP = 'run directory (default: /run/vlo as root, else $XDG_RUNTIME_DIR/vlo)';
