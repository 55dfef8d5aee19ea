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

struct vlo_create {
	__u32 abi_version;
	__u32 flags;		/* VLO_F_* */
	__u32 device_id;	/* virtio device id; the module has a list of those it takes */
	__u32 vendor_id;
	__u64 features;		/* offered to the driver; VERSION_1 is required */
	__u64 reserved_features;
	__u64 pool_size;	/* bytes of a session's memory; whole pages */
	__u32 takeover_ms;	/* how long requests wait for another adapter; 0: not at all */
	__u32 stop_ms;		/* how long a reset waits for VLO_ACK; 0: not at all */
	/* How long a call may be held back with many requests outstanding; 0: not at all. */
	__u32 call_us;
	__u32 reserved;
	__u32 queue_count;
	__u32 config_size;	/* bytes */
	char name[VLO_NAME_SIZE];	/* unique; letters, digits, "-", "_" and "." */
	__u16 queue_sizes[VLO_QUEUES_MAX];
	__u8 queue_flags[VLO_QUEUES_MAX];	/* VLO_Q_* */
	__u8 config[VLO_CONFIG_SIZE_MAX];
};

/* Only the user who created the device, or CAP_SYS_ADMIN, may take it over. */
struct vlo_attach {
	__u32 abi_version;
	__u32 reserved;
	char name[VLO_NAME_SIZE];
};

struct vlo_info {
	__u32 abi_version;
	__u32 id;		/* number of the platform device virtio-loopback.<id> */
	__u32 flags;
	__u32 device_id;
	__u32 vendor_id;
	__u32 queue_count;
	__u32 config_size;
	__u32 takeover_ms;
	__u64 features;		/* offered to the driver */
	__u64 driver_features;	/* accepted by the driver */
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

struct vlo_event {
	__u32 events;		/* VLO_EVENT_* */
	__u32 status;		/* device status, as of now */
	__u32 sequence;		/* the number that VLO_ACK has to give */
	__u32 unacked;		/* not 0: the driver waits for VLO_ACK */
};

/* Flags of a session. */
/* Requests that the last back end did not complete fail, instead of being placed again. */
#define VLO_S_FAIL		0x01

struct vlo_session {
	__u32 flags;		/* in: VLO_S_* */
	__u32 number;		/* out: counts from 1 */
	__u64 ring_features;	/* in: of the back end: EVENT_IDX, INDIRECT_DESC, RING_PACKED */
	__u32 replayed;		/* out: requests that were placed again */
	__u32 failed;		/* out: requests that failed */
};

/* A queue is: absent (0); made by the driver; and in the present session. */
#define VLO_QUEUE_MADE		1
#define VLO_QUEUE_STARTED	2

struct vlo_queue {
	__u32 index;		/* in */
	__u32 state;		/* VLO_QUEUE_*; STARTED: the fields below hold */
	__u32 size;		/* entries in use; up to the size at creation */
	__u32 base;		/* where the back end starts, as SET_VRING_BASE has it */
	__u64 descriptor;	/* guest addresses of the three areas, for the back end */
	__u64 driver;
	__u64 device;
};

struct vlo_fd {
	__u32 index;		/* of the queue */
	__s32 fd;		/* an eventfd; -1 takes the present one away */
};

/* Memory of the session: region 0 is the pool, region 1 (with VLO_F_DIRECT) the host's RAM. */
struct vlo_memory {
	__u32 index;		/* in */
	__s32 fd;		/* out: a file to map, of `size` bytes; the caller closes it */
	__u64 address;		/* guest address of its first byte */
	__u64 size;
};

struct vlo_config {
	__u32 offset;
	__u32 size;
	__u8 bytes[VLO_CONFIG_SIZE_MAX];
};

#define VLO_CREATE		_IOW('v', 0xC0, struct vlo_create)
#define VLO_ATTACH		_IOW('v', 0xC1, struct vlo_attach)
#define VLO_GET_INFO		_IOR('v', 0xC2, struct vlo_info)
#define VLO_GET_QUEUE		_IOWR('v', 0xC3, struct vlo_queue)
#define VLO_GET_MEMORY		_IOWR('v', 0xC4, struct vlo_memory)
#define VLO_SET_KICK		_IOW('v', 0xC5, struct vlo_fd)
#define VLO_SET_CALL		_IOW('v', 0xC6, struct vlo_fd)
#define VLO_GET_CONFIG		_IOWR('v', 0xC7, struct vlo_config)
#define VLO_SET_CONFIG		_IOW('v', 0xC8, struct vlo_config)
/* The back end no longer uses the rings as they were at the event of this sequence number. */
#define VLO_ACK			_IOW('v', 0xC9, __u32)
/* Begins a session: new memory, new rings. The last one ends; its back end is heard no more. */
#define VLO_START		_IOWR('v', 0xCA, struct vlo_session)
/* Removes the device while its back end still serves; VLO_EVENT_GONE follows. */
#define VLO_REMOVE		_IO('v', 0xCB)

#endif /* VIRTIO_LOOPBACK_H */
