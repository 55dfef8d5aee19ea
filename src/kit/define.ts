/**
 * What a device author writes: {@link defineDevice} with the device's id, options, queues, and an
 * `open` function that returns handlers. Everything else (loop, rings, features, lifecycle,
 * in-flight tracking, metrics) belongs to the core.
 */
import * as v from 'valibot';
import { assert, VloError } from '../errors.js';
import type { Chain } from '../virtio/index.js';
import type { ServedQueue } from './served-queue.js';

/**
 * A request as a handler sees it: `reader` over what the driver sent, `writer` over its buffers.
 */
export type Request = Chain;

/** Result of a handler that completes the request itself, by {@link ServedQueue.complete}. */
export const LATER: unique symbol = Symbol('virtio-loopback.later');

/**
 * Result of a handler that cannot serve now: the request goes back to the ring, and the queue
 * waits until {@link ServedQueue.resume}. For rate limits and sources that are empty.
 */
export const NOT_NOW: unique symbol = Symbol('virtio-loopback.not-now');

/**
 * What a handler returns: nothing (done), a promise (done then), {@link LATER}, {@link NOT_NOW}.
 */
export type HandlerResult = undefined | Promise<void> | typeof LATER | typeof NOT_NOW;

/**
 * Serves one request. A `DriverFault` thrown here stops the queue and is blamed on the driver;
 * any other error is taken for a bug of the device.
 */
// biome-ignore lint/suspicious/noConfusingVoidType: handlers may simply end without a return.
export type Handler = (request: Request, queue: ServedQueue) => HandlerResult | void;

/** A kind of queue that a device has. */
export interface QueueDefinition {
  /** Name as the specification has it; the handler has the same name. */
  readonly name: string;
  /**
   * `request` (default): each request is handed to the handler as it arrives.
   * `supply`: the driver supplies buffers that the device takes when it has something to tell.
   */
  readonly kind?: 'request' | 'supply';
}

/** What the core offers to an open device. */
export interface DeviceHost {
  /** Writes one line to the log; of a flood, as a hostile driver can cause, only a part is kept. */
  log(line: string): void;
  /** Tells the driver that the config space changed; `bytes` becomes its new content. */
  setConfig(bytes: Uint8Array): void;
  /**
   * Runs the service loop soon: after a completion from outside of a handler, the loop publishes
   * it. {@link ServedQueue.complete} does so by itself.
   */
  wake(): void;
  /** All queues of this name that run now. */
  queues(name: string): readonly ServedQueue[];
  /**
   * The queue of a name that only one has; null while it does not run, or stops. One that a fault
   * has stopped is there, and takes nothing.
   */
  queue(name: string): ServedQueue | null;
}

/** Why a device is reset: its driver wanted it, or the connection to its front end has ended. */
export type ResetCause = 'driver' | 'disconnect';

/** An open device: what `open` returns. */
export interface OpenDevice<QueueName extends string = string> {
  /** Device-specific feature bits that this device offers. */
  readonly features: bigint;
  /**
   * Content of the config space, if the device has one. It may be changed in place where the
   * driver's own write is the cause; else {@link DeviceHost.setConfig} tells the driver.
   */
  readonly config?: Uint8Array;
  /** Handlers by queue name. */
  readonly handlers: { readonly [K in QueueName]?: Handler };
  /** How many queues of a name there are; 1 where it is left out. */
  readonly queueCounts?: { readonly [K in QueueName]?: number };
  /**
   * The name of each queue, by index, where kinds of queues take turns; else all queues of a name
   * follow each other, as many as {@link queueCounts} says.
   */
  readonly queueOrder?: readonly string[];
  /** The driver wrote to the config space. @throws VloError to refuse. */
  writeConfig?(offset: number, bytes: Uint8Array): void;
  /** The driver accepted these features. */
  setFeatures?(features: bigint): void;
  /** All requests that were waiting have been handed out: submit what was gathered. */
  commit?(): void;
  /** Looks for completed work; true when there was some. Called often: must be cheap. */
  poll?(): boolean;
  /** A queue starts. */
  queueStarted?(queue: ServedQueue): void;
  /**
   * A supply queue may have buffers: it has started, or the driver added some after it had been
   * found empty.
   */
  supplied?(queue: ServedQueue): void;
  /**
   * A queue stops; in-flight requests of it are to be completed soon (a device that holds some
   * for long puts them back or completes them empty here).
   */
  queueStopping?(queue: ServedQueue): void;
  /**
   * Forget what belongs to the driver: it reset the device, or its front end is gone. A driver
   * whose front end is gone may come back with another one, and go on without a reset.
   */
  reset?(cause: ResetCause): void;
  /** Free everything. All requests are complete. */
  close(): void | Promise<void>;
}

/** How an option of a device is given on a command line. */
export interface OptionArgument {
  /** Flags in commander's form: `--blk-file <path>`. */
  readonly flags: string;
  /** One line of help. */
  readonly description: string;
  /**
   * The value names a file: in a file of devices a relative one is relative to its folder, and
   * shells complete it with files.
   */
  readonly isPath?: boolean;
}

/** A schema whose output is an object of options. */
export type OptionsSchema = v.ObjectSchema<v.ObjectEntries, undefined>;

/** A device type, as {@link defineDevice} takes and returns it. */
export interface DeviceDefinition<
  Schema extends OptionsSchema = OptionsSchema,
  Queues extends readonly QueueDefinition[] = readonly QueueDefinition[],
> {
  /** Short name: `blk`. */
  readonly name: string;
  /** One line for users. */
  readonly summary: string;
  /** Device id of the virtio specification. */
  readonly virtioId: number;
  /** Options with their domains and defaults. */
  readonly options: Schema;
  /** Command-line form of each option. */
  readonly arguments: { readonly [K in keyof Schema['entries'] & string]: OptionArgument };
  /** Lines `vlo serve NAME` shows as examples. */
  readonly examples?: readonly string[];
  /** Features listed by `--print-capabilities`, as QEMU's conventions name them. */
  readonly capabilities?: readonly string[];
  /**
   * Requests end in an order of their own (one waits for an event while later ones are served):
   * IN_ORDER is never offered.
   */
  readonly isUnordered?: boolean;
  /** Kinds of queues, in the order of the specification. */
  readonly queues: Queues;
  /** Opens the device. @throws VloError when an option or a resource is not as it has to be. */
  open(
    options: v.InferOutput<Schema>,
    host: DeviceHost,
  ): OpenDevice<Queues[number]['name']> | Promise<OpenDevice<Queues[number]['name']>>;
}

/** Any device definition, whatever its options. */
// biome-ignore lint/suspicious/noExplicitAny: `open` is contravariant in its options.
export type AnyDeviceDefinition = DeviceDefinition<any, readonly QueueDefinition[]>;

/** Declares a device type. Handler names are checked against the queues by the compiler. */
export function defineDevice<
  Schema extends OptionsSchema,
  const Queues extends readonly QueueDefinition[],
>(definition: DeviceDefinition<Schema, Queues>): DeviceDefinition<Schema, Queues> {
  assert(/^[a-z][a-z0-9-]*$/.test(definition.name), `device name '${definition.name}'`);
  assert(definition.queues.length > 0, `device '${definition.name}' has no queues`);
  return definition;
}

/** What an option of a device takes. */
export interface OptionDomain {
  /** Kind of the value as valibot names it, without what says that it may be left out. */
  readonly type: string;
  /** All values, where they are a list. */
  readonly choices: readonly string[];
}

/** Reads from a device's schema what one of its options takes. */
export function optionDomain(definition: AnyDeviceDefinition, key: string): OptionDomain {
  interface Schema {
    readonly type: string;
    readonly options?: readonly string[];
    readonly wrapped?: Schema;
  }
  let schema: Schema = definition.options.entries[key];
  while (schema.wrapped !== undefined) schema = schema.wrapped;
  const { type, options = [] } = schema;
  return { type, choices: type === 'picklist' ? options : [] };
}

/**
 * Checks options against a device's schema and fills in defaults.
 * @throws VloError VLO_OPTION_INVALID that names the option and its command-line form.
 */
export function parseOptions<Schema extends OptionsSchema>(
  definition: DeviceDefinition<Schema, readonly QueueDefinition[]>,
  options: unknown,
): v.InferOutput<Schema> {
  const result = v.safeParse(v.strictObject(definition.options.entries), options);
  if (result.success) return result.output as v.InferOutput<Schema>;
  const issue = result.issues[0];
  const key = v.getDotPath(issue) ?? '';
  const argument = (definition.arguments as Record<string, OptionArgument>)[key];
  const shown =
    argument === undefined
      ? `option '${key}'`
      : (argument.flags.match(/--[a-z-]+/)?.[0] ?? argument.flags);
  if (issue.received === 'undefined') {
    throw new VloError('VLO_OPTION_INVALID', `${definition.name}: ${shown} is required`);
  }
  if (argument === undefined) {
    throw new VloError('VLO_OPTION_INVALID', `${definition.name}: there is no ${shown}`);
  }
  throw new VloError('VLO_OPTION_INVALID', `${definition.name}: ${shown}: ${issue.message}`);
}
