/** vhost-user: the messages, and the back end's side of the protocol. */
export {
  BackEndSession,
  type BackEndSessionEvents,
  type BackEndSessionOptions,
} from './back-end.js';
export { type BackEndDevice, KICK_IN_BAND, KICK_POLL } from './back-end-device.js';
export { BackEndServer, type BackEndServerOptions, listenAt } from './back-end-server.js';
export * from './codec.js';
export {
  Connection,
  type ConnectionHandlers,
  type ConnectionRole,
  type IncomingMessage,
} from './connection.js';
export * from './decode.js';
export { LogBitmap } from './dirty-log.js';
export { FrontEnd } from './front-end.js';
export { FrontEndLog } from './front-end-log.js';
export { type SharedBlock, SharedMemory, SharedRegion } from './front-end-memory.js';
export * from './front-end-options.js';
export { FrontEndQueue, type QueueOptions, type QueueOwner } from './front-end-queue.js';
export { type InflightDescription, InflightRegion } from './inflight.js';
export * from './messages.js';
export * from './messages-constants.js';
export { Relay, type RelayEvents, type RelayOptions } from './relay.js';
export * from './relay-types.js';
