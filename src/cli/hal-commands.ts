/** `vlo status`, `vlo down`, `vlo restart`: what is asked of a running HAL. */
import { askHal } from '../hal/control.js';
import { defaultRunDirectory } from '../hal/run-directory.js';
import { formatStatus, type HalStatus } from '../hal/status.js';
import { print } from './output.js';

interface HalCommandOptions {
  readonly runDir?: string;
}

const runDirOf = (options: HalCommandOptions): string => options.runDir ?? defaultRunDirectory();

export async function status(
  options: HalCommandOptions & { readonly json?: boolean },
): Promise<void> {
  const result = (await askHal(runDirOf(options), { command: 'status' })) as HalStatus;
  print(options.json === true ? JSON.stringify(result, null, 2) : formatStatus(result));
}

export async function down(options: HalCommandOptions): Promise<void> {
  await askHal(runDirOf(options), { command: 'down' });
}

export async function restart(name: string, options: HalCommandOptions): Promise<void> {
  await askHal(runDirOf(options), { command: 'restart', name });
}
