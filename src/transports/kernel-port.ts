/**
 * A driver in the kernel, as the adapter meets it. A transport (loopback, VDUSE) makes ports; the
 * engine in `kernel-attachment.ts` binds one to a back end and knows nothing of ioctls.
 *
 *   engine ── open(spec) ─► transport ─► port ── listen(handler)
 *   port   ── changed, configWritten, broken, failed, gone ─► engine
 *   engine ── state, renew, readConfig, writeConfig, remove, close ─► port
 *   engine ── keepInflight, stash, takeStash, failRequests ─► port, where it cannot renew its rings
 *
 * The port owns what the kernel handed out (memory files, eventfds, addresses) and says as a value
 * what holds now: {@link PortState}. The engine makes the rings of the back end like it. There are
 * no single steps that could be missed, and a port that was taken over is no special case.
 */
import type { VloError } from '../errors.js';
import type { Fd } from '../native/index.js';
import type { RelayPast, RelayQueue, RelayRegion } from '../vhost-user/index.js';
import type { PortMemory, TransportName } from './attachment.js';

/** The device that the kernel is to see. */
export interface PortSpec {
  /** Name of the device: no two devices share one, and an adapter takes over by it. */
  readonly name: string;
  /** Type of the device, for messages: `blk`. */
  readonly type: string;
  /** Its virtio id. */
  readonly deviceId: number;
  /**
   * Virtio features that may be offered: the back end's, without those of vhost-user and those that
   * no port serves. A port takes bits away that its kernel refuses (VDUSE: CONFIG_WCE of blk), and
   * adds those that it serves itself (loopback: RING_RESET; VDUSE: ACCESS_PLATFORM).
   */
  readonly features: bigint;
  /** Entries of each queue; its length is the number of queues. */
  readonly queueSizes: readonly number[];
  /** Config space as the driver is to read it. */
  readonly config: Uint8Array;
  /** A driver that writes config space is to wait for {@link PortHandler.configWritten}. */
  readonly isConfigWindow: boolean;
  readonly memory: PortMemory;
  /** Numbers of the queues that hold buffers for the device to fill; no driver waits for one. */
  readonly inbound: readonly number[];
  /** Numbers of the queues whose driver busy-waits for its requests. */
  readonly early: readonly number[];
  /** The device fills buffers by whole sectors, or not at all. */
  readonly fillsSectors: boolean;
  /** Bytes of the pool that rings and bounced buffers share. */
  readonly poolSize: number;
  /** Time in ms that requests wait for another adapter when this one dies. */
  readonly takeoverMs: number;
  /** Time in ms that a driver's reset waits for the back end to stop. */
  readonly stopMs: number;
  /** Time in µs that the end of a request may wait for that of others; 0: not at all. */
  readonly callUs: number;
  readonly log: (line: string) => void;
}

/** What a port that is there was made with. A port that was taken over may differ from the spec. */
export interface PortIdentity {
  readonly deviceId: number;
  /** Features offered to the driver that are the back end's to serve: without the port's own. */
  readonly features: bigint;
  readonly queueSizes: readonly number[];
  readonly configSize: number;
  /** Bytes of the pool; null where nothing is copied through one. */
  readonly poolSize: number | null;
}

/** A queue that the driver has set up and that may be served. */
export interface PortQueue extends RelayQueue {
  /** The driver found it broken and will not touch it before a reset. */
  readonly isBroken: boolean;
}

/** What holds now. */
export interface PortState {
  /** The driver is ready (DRIVER_OK): the rings below are to be served. */
  readonly isRunning: boolean;
  /** Features that the driver accepted, as the back end is to be told them; else 0. */
  readonly features: bigint;
  /**
   * The memory that rings and buffers lie in. The same object from one state to the next means the
   * same memory; the port closes the descriptor of one that is gone after `changed` has resolved.
   * VDUSE: what the IOTLB has, found by the port; it may change while rings run.
   */
  readonly regions: readonly RelayRegion[];
  /** The queues that are ready. */
  readonly queues: readonly PortQueue[];
}

/** What a port tells. One call at a time: the next one waits until the last has resolved. */
export interface PortHandler {
  /**
   * Status, queues, or memory have changed. Resolves, and soon, when the back end touches nothing
   * any more that the state has no more; the port then answers the kernel (loopback: VLO_ACK;
   * VDUSE: the reply to SET_STATUS or UPDATE_IOTLB), which may make the driver go on. That rings
   * are served that are new is not waited for.
   * @param wasReset the device was reset since the last call, even if it looks as before. Of a
   * port that was taken over: only where it is certain that the dead adapter's rings are no more
   */
  changed(state: PortState, wasReset: boolean): Promise<void>;
  /** The driver wrote config space. It may be waiting until this resolves. */
  configWritten(): Promise<void>;
  /** Features of rings that the present back end has, and that may be used: for {@link renew}. */
  ringFeatures(): bigint;
  /**
   * A ring is broken: the back end wrote what no device may write. Ports that can renew their rings
   * go on with another back end; else the driver has stopped, and nothing goes on before a reset.
   */
  broken(): void;
  /** Serving is not possible any more, and why; the device is still there. */
  failed(error: VloError): void;
  /**
   * The device is gone: after {@link KernelPort.remove}, or because the kernel took it away. Said
   * once; the port makes no more calls for it.
   */
  gone(): void;
}

export interface KernelPort {
  /** A dead adapter's device was taken over: rings may hold requests that nobody finished. */
  readonly isTakenOver: boolean;
  readonly identity: PortIdentity;
  /**
   * Begins to tell the handler; first, and at once, the state as it is (`changed`), so that a port
   * that was taken over goes on. Call it once.
   */
  listen(handler: PortHandler): void;
  /** The state now. */
  state(): PortState;
  /**
   * Makes rings and memory anew for another back end, with all outstanding requests in them. Ports
   * without it leave the rings as the last back end left them.
   * @throws VloError VLO_TRANSPORT_UNAVAILABLE when the kernel has no memory for them
   */
  renew?(): PortState;
  /** The whole config space, with what the driver wrote. */
  readConfig(): Uint8Array;
  /** Changes config space and tells the driver. */
  writeConfig(offset: number, bytes: Uint8Array): void;
  /**
   * Puts in-flight memory where the next adapter finds it, for ports whose kernel keeps no
   * descriptor (VDUSE); before rings are served, and before {@link stash} tells of it. Null: it
   * stays where it is. The descriptor is the caller's.
   */
  keepInflight?(memory: Fd, size: number): Fd | null;
  /** Keeps for the next adapter that rings are served, and how far; null: none is any more. */
  stash?(past: RelayPast | null): void;
  /** What a dead adapter left; null when it served no ring. The descriptor is the caller's. */
  takeStash?(): RelayPast | null;
  /**
   * Has all outstanding requests fail, since no back end knows of them any more; the device goes on
   * with those that come. Returns how many failed; null where this port cannot do it (then the
   * device is failed). No back end serves the rings during the call.
   */
  failRequests?(): number | null;
  /** Waits until applications can open something, and says what: `/dev/vda`. Null: nothing known.
   * */
  findNode(signal: AbortSignal): Promise<string | null>;
  /** Has the kernel remove the device, in order: the back end serves on until `gone`. */
  remove(): void;
  /**
   * Lets everything go, at once. Outstanding requests fail. The handler hears nothing any more.
   * Idempotent.
   */
  close(): void;
}

/** A way to the kernel. */
export interface KernelTransport {
  readonly name: TransportName;
  /** Bytes of pool, where the type of a device need not be asked: unused room costs nothing. */
  readonly poolSize?: number;
  /**
   * Makes the device, or takes over the one of that name whose adapter has died.
   * @throws VloError VLO_TRANSPORT_UNAVAILABLE when the kernel has no such thing, or not for this
   * type; VLO_DEVICE_IN_USE when a living adapter has a device of that name
   */
  open(spec: PortSpec): Promise<KernelPort>;
}

/** A descriptor pair of a queue, for ports to keep. */
export interface QueueEvents {
  /** Signalled by the driver, read by the back end. */
  readonly kick: Fd;
  /**
   * Signalled by the back end. Loopback: read by the kernel. VDUSE, which has an ioctl for it:
   * watched by the port, the one hop through the adapter that VDUSE needs.
   */
  readonly call: Fd;
}
