/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * virtio-loopback: the interface between the kernel module and the adapter.
 *
 * An adapter opens /dev/virtio-loopback and either creates a device (VLO_CREATE) or takes over one
 * whose adapter has died (VLO_ATTACH). From then on the file stands for that device:
 *
 *   poll() + read()  tell what the driver did (struct vlo_event);
 *   ioctl()          hands sessions, eventfds, memory and config space back and forth.
 *
 * A session (VLO_START) is the time during which one back end serves the device. It has memory of
 * its own, in which the back end finds rings and bounced buffers. Requests that the last back end
 * did not complete are placed in the rings of the next session.
 *
 * All fields are in the byte order of the machine. Reserved fields and unknown flags must be zero.
 * Structures have the same layout for 32-bit and 64-bit programs.
 */
#ifndef VIRTIO_LOOPBACK_H
#define VIRTIO_LOOPBACK_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Version of this interface. VLO_CREATE and VLO_ATTACH refuse any other (EPROTO). */
#define VLO_ABI_VERSION		2

#define VLO_NAME_SIZE		32	/* bytes of a device's name, with its final zero */
#define VLO_QUEUES_MAX		64
#define VLO_QUEUE_SIZE_MAX	1024	/* entries; sizes are powers of two */
#define VLO_CONFIG_SIZE_MAX	256	/* bytes of config space */
#define VLO_POOL_SIZE_MIN	0x100000	/* bytes: 1 MiB */
#define VLO_POOL_SIZE_MAX	0x40000000	/* bytes: 1 GiB */
#define VLO_TAKEOVER_MS_MAX	600000
#define VLO_STOP_MS_MAX		600000
#define VLO_CALL_US_MAX		10000

/* Flags of a device (struct vlo_create). */
#define VLO_F_DIRECT		0x01	/* zero-copy: the back end maps all RAM */
/* The driver waits for VLO_ACK when it writes config space: for windows, as virtio-input has. */
#define VLO_F_CONFIG_WAIT	0x02

/* Flags of a queue (struct vlo_create). */
/* The driver keeps buffers here for the device to fill. It never waits for one of them. */
#define VLO_Q_INBOUND		0x01
/*
 * The driver busy-waits for its requests, and sends only. The kernel completes each request as soon
 * as it has copied it; one that finds no room is dropped, and counted. A request that sends nothing
 * is left alone.
 */
#define VLO_Q_EARLY		0x02
/* The device fills buffers by whole sectors of 512 bytes. It saves clearing them. */
#define VLO_Q_SECTORS		0x04

/**
 * struct vlo_create - a new device, for VLO_CREATE
 * @abi_version: VLO_ABI_VERSION
 * @flags: VLO_F_*
 * @device_id: virtio device id; the module has a list of the ids that it accepts
 * @vendor_id: virtio vendor id, as the driver core shows it
 * @features: feature bits offered to the driver; VERSION_1 is required
 * @reserved_features: zero
 * @pool_size: bytes of a session's memory; a multiple of the page size
 * @takeover_ms: how long requests wait for another adapter; 0: not at all
 * @stop_ms: how long a reset waits for VLO_ACK; 0: not at all
 * @call_us: how long a call may be held back with many requests outstanding; 0: not at all
 * @reserved: zero
 * @queue_count: number of queues, 1 to VLO_QUEUES_MAX
 * @config_size: bytes of config space
 * @name: unique; letters, digits, "-", "_" and "."; with its final zero
 * @queue_sizes: entries of each queue, a power of two; zero behind the last queue
 * @queue_flags: VLO_Q_*, at most one for each queue; zero behind the last queue
 * @config: initial config space; zero behind @config_size
 */
struct vlo_create {
	__u32 abi_version;
	__u32 flags;
	__u32 device_id;
	__u32 vendor_id;
	__u64 features;
	__u64 reserved_features;
	__u64 pool_size;
	__u32 takeover_ms;
	__u32 stop_ms;
	__u32 call_us;
	__u32 reserved;
	__u32 queue_count;
	__u32 config_size;
	char name[VLO_NAME_SIZE];
	__u16 queue_sizes[VLO_QUEUES_MAX];
	__u8 queue_flags[VLO_QUEUES_MAX];
	__u8 config[VLO_CONFIG_SIZE_MAX];
};

/**
 * struct vlo_attach - a device to take over, for VLO_ATTACH
 * @abi_version: VLO_ABI_VERSION
 * @reserved: zero
 * @name: the name at creation
 */
struct vlo_attach {
	__u32 abi_version;
	__u32 reserved;
	char name[VLO_NAME_SIZE];
};

/**
 * struct vlo_info - a device as it is, from VLO_GET_INFO
 * @abi_version: VLO_ABI_VERSION
 * @id: number of the platform device virtio-loopback.<id>
 * @flags: as at creation
 * @device_id: as at creation
 * @vendor_id: as at creation
 * @queue_count: as at creation
 * @config_size: as at creation
 * @takeover_ms: as at creation
 * @features: feature bits offered to the driver
 * @driver_features: feature bits accepted by the driver
 * @pool_size: as at creation
 * @stop_ms: as at creation
 * @call_us: as at creation
 * @name: as at creation
 * @queue_sizes: as at creation
 * @queue_flags: as at creation
 */
struct vlo_info {
	__u32 abi_version;
	__u32 id;
	__u32 flags;
	__u32 device_id;
	__u32 vendor_id;
	__u32 queue_count;
	__u32 config_size;
	__u32 takeover_ms;
	__u64 features;
	__u64 driver_features;
	__u64 pool_size;
	__u32 stop_ms;
	__u32 call_us;
	char name[VLO_NAME_SIZE];
	__u16 queue_sizes[VLO_QUEUES_MAX];
	__u8 queue_flags[VLO_QUEUES_MAX];
};

/* What has happened since the last read. */
#define VLO_EVENT_STATUS	0x01	/* the driver wrote the device status */
#define VLO_EVENT_QUEUES	0x02	/* a queue is ready, or is no longer */
#define VLO_EVENT_RESET		0x04	/* the device was reset; its session has ended */
#define VLO_EVENT_CONFIG	0x08	/* the driver wrote config space */
#define VLO_EVENT_BROKEN	0x10	/* the back end broke a ring; its session has ended */
#define VLO_EVENT_GONE		0x20	/* the device is removed; this is the last event */

/**
 * struct vlo_event - what the driver did since the last read(); read() returns one of these
 * @events: VLO_EVENT_*
 * @status: device status, as of now
 * @sequence: the number that VLO_ACK has to give
 * @unacked: not 0: the driver waits for VLO_ACK
 */
struct vlo_event {
	__u32 events;
	__u32 status;
	__u32 sequence;
	__u32 unacked;
};

/* Flags of a session. */
/* Requests that the last back end did not complete fail, instead of being placed again. */
#define VLO_S_FAIL		0x01

/**
 * struct vlo_session - a session to begin, for VLO_START
 * @flags: in: VLO_S_*
 * @number: out: counts from 1
 * @ring_features: in: of the back end: EVENT_IDX, INDIRECT_DESC, RING_PACKED
 * @replayed: out: requests that were placed again
 * @failed: out: requests that failed
 */
struct vlo_session {
	__u32 flags;
	__u32 number;
	__u64 ring_features;
	__u32 replayed;
	__u32 failed;
};

/* A queue is: absent (0); made by the driver; and in the present session. */
#define VLO_QUEUE_MADE		1
#define VLO_QUEUE_STARTED	2

/**
 * struct vlo_queue - a queue as the back end needs it, for VLO_GET_QUEUE
 * @index: in: number of the queue
 * @state: out: VLO_QUEUE_*; the fields below are valid if it is VLO_QUEUE_STARTED
 * @size: out: entries in use; up to the size at creation
 * @base: out: where the back end starts, as SET_VRING_BASE has it
 * @descriptor: out: guest address of the descriptor area
 * @driver: out: guest address of the driver area
 * @device: out: guest address of the device area
 */
struct vlo_queue {
	__u32 index;
	__u32 state;
	__u32 size;
	__u32 base;
	__u64 descriptor;
	__u64 driver;
	__u64 device;
};

/**
 * struct vlo_fd - an eventfd of a queue, for VLO_SET_KICK and VLO_SET_CALL
 * @index: number of the queue
 * @fd: an eventfd; -1 removes the present one
 */
struct vlo_fd {
	__u32 index;
	__s32 fd;
};

/**
 * struct vlo_memory - memory of the session, for VLO_GET_MEMORY
 * @index: in: 0: the pool; 1: the host's RAM, with VLO_F_DIRECT only
 * @fd: out: a file to map; the caller closes it
 * @address: out: guest address of its first byte
 * @size: out: bytes of the file
 */
struct vlo_memory {
	__u32 index;
	__s32 fd;
	__u64 address;
	__u64 size;
};

/**
 * struct vlo_config - a part of config space, for VLO_GET_CONFIG and VLO_SET_CONFIG
 * @offset: where it begins
 * @size: bytes of it
 * @bytes: in for VLO_SET_CONFIG, out for VLO_GET_CONFIG
 */
struct vlo_config {
	__u32 offset;
	__u32 size;
	__u8 bytes[VLO_CONFIG_SIZE_MAX];
};

/**
 * DOC: ioctls
 *
 * VLO_CREATE and VLO_ATTACH choose the device of an open file, once. All others fail with EUNATCH
 * before that, and with ENODEV after the device was removed. Any of them fails with EFAULT for an
 * address that is not the caller's, and with EINVAL for values that the structure does not allow.
 */

/**
 * define VLO_CREATE - creates a device and gives it to this file
 *
 * Errors: EALREADY: the file has a device. EEXIST: another device has that name. EPROTO: another
 * @abi_version. EAFNOSUPPORT: the module does not accept that device type. EPERM: the type, or
 * VLO_F_DIRECT, needs a capability that the caller lacks. EACCES: the administrator does not allow
 * VLO_F_DIRECT, or the kernel is locked down. EDQUOT: the user has as many devices as it may.
 * EUSERS: the module has as many devices as it can.
 */
#define VLO_CREATE		_IOW('v', 0xC0, struct vlo_create)
/**
 * define VLO_ATTACH - takes over a device whose adapter has died
 *
 * Errors: EALREADY: the file has a device. ENOENT: no device has that name. EPERM: the caller is
 * not the user who created the device and lacks CAP_SYS_ADMIN, or lacks the type's capability.
 * EBUSY: the device has an adapter. ENODEV: the device is being removed. EPROTO as VLO_CREATE.
 */
#define VLO_ATTACH		_IOW('v', 0xC1, struct vlo_attach)
/**
 * define VLO_GET_INFO - describes the device
 */
#define VLO_GET_INFO		_IOR('v', 0xC2, struct vlo_info)
/**
 * define VLO_GET_QUEUE - describes a queue
 */
#define VLO_GET_QUEUE		_IOWR('v', 0xC3, struct vlo_queue)
/**
 * define VLO_GET_MEMORY - opens memory of the session
 *
 * Errors: ENOENT: the device has no session, or not that memory. EPERM and EACCES as VLO_CREATE,
 * for a device with VLO_F_DIRECT.
 */
#define VLO_GET_MEMORY		_IOWR('v', 0xC4, struct vlo_memory)
/**
 * define VLO_SET_KICK - the eventfd that the module signals when the driver placed requests
 */
#define VLO_SET_KICK		_IOW('v', 0xC5, struct vlo_fd)
/**
 * define VLO_SET_CALL - the eventfd that the back end signals when it used requests
 */
#define VLO_SET_CALL		_IOW('v', 0xC6, struct vlo_fd)
/**
 * define VLO_GET_CONFIG - reads config space
 */
#define VLO_GET_CONFIG		_IOWR('v', 0xC7, struct vlo_config)
/**
 * define VLO_SET_CONFIG - writes config space, and tells the driver if it changed
 */
#define VLO_SET_CONFIG		_IOW('v', 0xC8, struct vlo_config)
/**
 * define VLO_ACK - acknowledges all that happened up to a sequence number
 *
 * The argument points to @sequence of an event. The back end no longer uses the rings as they were
 * then.
 */
#define VLO_ACK			_IOW('v', 0xC9, __u32)
/**
 * define VLO_START - begins a session: new memory, new rings
 *
 * The last session ends; its back end is heard no more.
 *
 * Errors: ENODATA: the driver has no queue ready. EPROTONOSUPPORT: the driver relies on a feature
 * of rings that the back end lacks. ENOSPC: the pool is too small for the rings. EPERM and EACCES
 * as VLO_GET_MEMORY. ENOMEM: the memory is not there, or the caller may not lock as much.
 */
#define VLO_START		_IOWR('v', 0xCA, struct vlo_session)
/**
 * define VLO_REMOVE - removes the device while its back end still serves
 *
 * VLO_EVENT_GONE follows.
 */
#define VLO_REMOVE		_IO('v', 0xCB)

#endif /* VIRTIO_LOOPBACK_H */
