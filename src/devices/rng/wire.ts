/**
 * Wire facts of the entropy device: virtio 1.x specification, section 5.4. It has no config space,
 * no features and no headers: each request is a buffer that the device fills.
 */

/** Most bytes that one request is given; a driver that wants more asks again. */
export const REQUEST_SIZE_MAX = 64 * 1024;
