/** `vlo up`: brings up the devices of a file and stays with them. */

import { loadConfig, prepareImages } from '../hal/config.js';
import { Hal } from '../hal/hal.js';
import { defaultRunDirectory } from '../hal/run-directory.js';
import { notifyServiceManager } from '../native/index.js';
import { log, waitForSignal } from './output.js';

export interface UpOptions {
  readonly runDir?: string;
}

/** @throws VloError as configuration, run directory and devices are */
export async function up(file: string, options: UpOptions): Promise<void> {
  const config = loadConfig(file);
  prepareImages(config);
  const runDirectory = options.runDir ?? defaultRunDirectory();
  const interrupted = waitForSignal();
  const hal = await Hal.up(config, { runDirectory, log });
  try {
    const isUp = await Promise.race([
      hal.ready().then(() => true),
      interrupted.then(() => false),
      hal.ended.then(() => false),
    ]);
    if (isUp) {
      for (const { name, type, presentation, note } of hal.status().devices) {
        log(
          `${name}: ${type} ready${presentation === null ? '' : ` at ${presentation}`}${note === null ? '' : ` (${note})`}`,
        );
      }
      log(`up: ${config.devices.length} devices, run directory ${hal.status().runDirectory}`);
      notifyServiceManager('READY=1');
      await Promise.race([interrupted, hal.ended]);
    }
    notifyServiceManager('STOPPING=1');
  } finally {
    await hal.down();
  }
}
