/**
 * virtio-loopback: virtio devices as ordinary processes. The parts have entry points of their own:
 * `virtio-loopback/virtio`, `/vhost-user`, `/devices`, `/testing`.
 */
export * from './devices/index.js';
export * from './errors.js';
export * from './kit/index.js';
