/**
 * `virtio-loopback/testing`: tests a device without any peer. {@link MockDriver} opens a device and
 * drives it over real rings in shared memory, in whatever way a driver may cut its requests, and in
 * some that none should.
 */
export { MockDriver, type MockDriverOptions, type MockFault } from './mock-driver.js';
export { MOCK_MEMORY_ADDRESS, resourceCounts } from './mock-memory.js';
export { type KickKind, type MockRequest, type MockResult, UNWRITTEN } from './mock-queue.js';
export { cutAt, cutEvery, cutSize, join, pattern } from './payload.js';
export {
  type MalformedKind,
  malformedKinds,
  type RawDescriptor,
  type RawOptions,
} from './raw-ring.js';
