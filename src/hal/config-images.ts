/** The images of disks: made where they are missing, never changed where they are there. */
import {
  accessSync,
  closeSync,
  constants,
  ftruncateSync,
  openSync,
  realpathSync,
  type Stats,
  statSync,
  unlinkSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import type { DeviceConfig, HalConfig, ImageConfig } from './config-model.js';
import { ProblemList } from './config-problems.js';

const SECTOR_SIZE = 512;

/** A device that has an image. */
interface Disk {
  readonly name: string;
  readonly image: ImageConfig;
}

function disksOf(devices: readonly DeviceConfig[]): Disk[] {
  return devices.flatMap(({ name, image }) => (image === null ? [] : [{ name, image }]));
}

/** Two programs that write to an image destroy it; readers of one that is written see it change. */
export function checkSharing(
  devices: readonly DeviceConfig[],
  problems: ProblemList,
  identityOf: (path: string) => string = (path) => path,
): void {
  const users = new Map<string, Disk>();
  for (const disk of disksOf(devices)) {
    const { image } = disk;
    const identity = identityOf(image.path);
    const other = users.get(identity);
    if (other === undefined) {
      users.set(identity, disk);
    } else if (!(image.readOnly && other.image.readOnly)) {
      const message =
        `'${image.path}' is the image of '${other.name}' already: ` +
        'they can share it only if both have `read-only: true`';
      problems.add('VLO_CONFIG_VALUE', image.position, message);
    }
  }
}

function codeOf(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? 'unknown error';
}

/** The same for all names of a file, so that a link does not hide that it is used twice. */
function identityOf(path: string): string {
  try {
    const stat = statSync(path);
    return stat.isBlockDevice() ? `block ${stat.rdev}` : `file ${stat.dev}:${stat.ino}`;
  } catch {
    try {
      return join(realpathSync(dirname(path)), basename(path));
    } catch {
      return path;
    }
  }
}

function isAccessible(path: string, mode: number): boolean {
  try {
    accessSync(path, mode);
    return true;
  } catch {
    return false;
  }
}

function checkExisting(image: ImageConfig, stat: Stats, problems: ProblemList): void {
  const { path, size, readOnly, position, sizePosition } = image;
  if (!stat.isFile() && !stat.isBlockDevice()) {
    const kind = stat.isDirectory() ? 'a folder' : 'neither a file nor a block device';
    problems.add('VLO_IMAGE_TYPE', position, `image '${path}' is ${kind}`);
    return;
  }
  const mode = readOnly ? constants.R_OK : constants.R_OK | constants.W_OK;
  if (!isAccessible(path, mode)) {
    const hint = readOnly ? '' : ', or add `read-only: true`';
    const message = `image '${path}' may not be opened: check its permissions${hint}`;
    problems.add('VLO_IMAGE_ACCESS', position, message);
  }
  // A block device has the size that it has; it is never made.
  if (stat.isBlockDevice()) return;
  if (size !== null && stat.size !== size) {
    const message =
      `image '${path}' has ${stat.size} bytes, not ${size}: an image that is there is never ` +
      'resized; take `size` out, or change it';
    problems.add('VLO_IMAGE_SIZE', sizePosition, message);
  } else if (stat.size === 0 || stat.size % SECTOR_SIZE !== 0) {
    const domain = `no positive multiple of ${SECTOR_SIZE}`;
    const message = `image '${path}' has ${stat.size} bytes, ${domain}`;
    problems.add('VLO_IMAGE_SIZE', position, message);
  }
}

function checkFolder(image: ImageConfig, problems: ProblemList): void {
  const folder = dirname(image.path);
  const subject = `image '${image.path}' cannot be made: its folder`;
  try {
    if (!statSync(folder).isDirectory()) {
      problems.add('VLO_IMAGE_ACCESS', image.position, `${subject} is none`);
    } else if (!isAccessible(folder, constants.W_OK | constants.X_OK)) {
      problems.add('VLO_IMAGE_ACCESS', image.position, `${subject} may not be written to`);
    }
  } catch (error) {
    const message = `${subject} cannot be reached (${codeOf(error)}); \`mkdir -p\` makes it`;
    problems.add('VLO_IMAGE_ACCESS', image.position, message);
  }
}

/** Checks all images and returns those to be made, each once. */
function imagesToMake(disks: readonly Disk[], problems: ProblemList): ImageConfig[] {
  const missing = new Map<string, ImageConfig>();
  for (const { image } of disks) {
    const { path, position } = image;
    try {
      checkExisting(image, statSync(path), problems);
    } catch (error) {
      if (codeOf(error) !== 'ENOENT') {
        const message = `image '${path}' cannot be looked at (${codeOf(error)})`;
        problems.add('VLO_IMAGE_ACCESS', position, message);
        continue;
      }
      checkFolder(image, problems);
      const identity = identityOf(path);
      const first = missing.get(identity);
      if (first !== undefined && first.size !== image.size && image.size !== null) {
        const message = `'${path}' gets ${first.size} bytes from another device, not ${image.size}`;
        problems.add('VLO_IMAGE_SIZE', image.sizePosition, message);
      }
      if (first !== undefined) continue;
      missing.set(identity, image);
      if (image.size !== null) continue;
      const message = `image '${path}' does not exist; add \`size: 64MiB\` to have it made`;
      problems.add('VLO_IMAGE_MISSING', position, message);
    }
  }
  return [...missing.values()];
}

/** Makes an empty image without blocks; they come as it is written. Leaves nothing on failure. */
function makeImage({ path, size }: ImageConfig): void {
  // Exclusively: a file that appeared since it was looked for is somebody's data.
  const fd = openSync(path, 'wx');
  try {
    ftruncateSync(fd, size ?? 0);
  } catch (error) {
    unlinkSync(path);
    throw error;
  } finally {
    closeSync(fd);
  }
}

/**
 * Makes the images that are missing. Checks all of them first: where anything is wrong, none is
 * made, and those that were made when one cannot be are taken away again.
 * @throws ConfigError with the place in the file of each mistake.
 */
export function prepareImages(config: HalConfig): void {
  const problems = new ProblemList();
  checkSharing(config.devices, problems, identityOf);
  const images = imagesToMake(disksOf(config.devices), problems);
  problems.throwIfAny(config.file);
  const made: string[] = [];
  for (const image of images) {
    try {
      makeImage(image);
      made.push(image.path);
    } catch (error) {
      for (const path of made) unlinkSync(path);
      const subject = `image '${image.path}' of ${image.size} bytes`;
      const message = `${subject} cannot be made (${codeOf(error)})`;
      problems.add('VLO_IMAGE_ACCESS', image.position, message);
      problems.throwIfAny(config.file);
    }
  }
}
