/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * virtio-loopback: the interface between the kernel module and the adapter.
 *
 * An adapter opens /dev/virtio-loopback and either creates a device (VLO_CREATE) or takes over one
 * whose adapter has died (VLO_ATTACH). From then on the file stands for that device:
 *
 *   poll() + read()  tell what the driver did (struct vlo_event);
 *   ioctl()          hands eventfds, memory and config space back and forth.
 *
 * All fields are in the byte order of the machine. Fields and flags that are not named have to be
 * zero. Structures have the same layout for 32-bit and 64-bit programs.
 */
#ifndef VIRTIO_LOOPBACK_H
#define VIRTIO_LOOPBACK_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Version of this interface. VLO_CREATE and VLO_ATTACH refuse any other (EPROTO). */
#define VLO_ABI_VERSION		1

#define VLO_NAME_SIZE		32	/* bytes of a device's name, with its final zero */
#define VLO_QUEUES_MAX		64
#define VLO_QUEUE_SIZE_MAX	1024	/* entries; sizes are powers of two */
#define VLO_CONFIG_SIZE_MAX	256	/* bytes of config space */
#define VLO_POOL_SIZE_MIN	0x100000	/* bytes: 1 MiB */
#define VLO_POOL_SIZE_MAX	0x40000000	/* bytes: 1 GiB */
#define VLO_TAKEOVER_MS_MAX	600000
#define VLO_STASH_NOTE_SIZE	64

/* Flags of struct vlo_create. */
#define VLO_F_DIRECT		0x01	/* zero-copy: all RAM is the device's to map */
/* The driver waits for VLO_ACK when it writes config space: for windows, as virtio-input has. */
#define VLO_F_CONFIG_WAIT	0x02

struct vlo_create {
	__u32 abi_version;
	__u32 flags;
	__u32 device_id;	/* virtio device id, not 0 */
	__u32 vendor_id;
	__u64 features;		/* offered to the driver; VERSION_1 is needed */
	__u64 reserved_features;
	__u64 pool_size;	/* bytes that rings and bounced buffers share; whole pages */
	__u32 takeover_ms;	/* how long requests wait for another adapter; 0: not at all */
	__u32 queue_count;
	__u32 config_size;	/* bytes */
	__u32 shm_count;	/* device-specific shared memory regions: none are supported */
	char name[VLO_NAME_SIZE];	/* unique; letters, digits, "-", "_" and "." */
	__u16 queue_sizes[VLO_QUEUES_MAX];
	__u8 config[VLO_CONFIG_SIZE_MAX];
};

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
	__u64 features;		/* offered */
	__u64 driver_features;	/* accepted; without ACCESS_PLATFORM, which is the module's own */
	__u64 pool_size;
	char name[VLO_NAME_SIZE];
	__u16 queue_sizes[VLO_QUEUES_MAX];
};

/* What has happened since the last read. */
#define VLO_EVENT_STATUS	0x01	/* the driver wrote the device status */
#define VLO_EVENT_QUEUES	0x02	/* a queue is ready, or is no more */
#define VLO_EVENT_RESET		0x04	/* the device was reset */
#define VLO_EVENT_CONFIG	0x08	/* the driver wrote config space */
#define VLO_EVENT_BROKEN	0x10	/* the driver found a ring broken */
#define VLO_EVENT_GONE		0x20	/* the device is removed; nothing else will come */

struct vlo_event {
	__u32 events;		/* VLO_EVENT_* */
	__u32 status;		/* device status, as of now */
	__u32 sequence;		/* what VLO_ACK has to name */
	__u32 unacked;		/* not 0: the driver waits for VLO_ACK */
};

struct vlo_queue {
	__u32 index;		/* in */
	__u32 ready;		/* 1: addresses and size hold */
	__u32 size;		/* entries in use; up to the size at creation */
	__u32 broken;		/* 1: the driver will not touch it again before a reset */
	__u64 descriptor;	/* guest addresses of the three areas */
	__u64 driver;
	__u64 device;
};

struct vlo_fd {
	__u32 index;		/* of the queue */
	__s32 fd;		/* an eventfd; -1 takes the present one away */
};

/* Memory of the device: region 0 is the pool, region 1 (with VLO_F_DIRECT) the host's RAM. */
struct vlo_memory {
	__u32 index;		/* in */
	__s32 fd;		/* out: a file to map, of `size` bytes; the caller's to close */
	__u64 address;		/* guest address of its first byte */
	__u64 size;
};

struct vlo_config {
	__u32 offset;
	__u32 size;
	__u8 bytes[VLO_CONFIG_SIZE_MAX];
};

/* A memory file that the module keeps for the next adapter: vhost-user's in-flight memory. */
struct vlo_stash {
	__s32 fd;		/* a memfd; -1: none */
	__u32 note_size;
	__u8 note[VLO_STASH_NOTE_SIZE];
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
/* The rings as of the event of this sequence number are no longer touched. */
#define VLO_ACK			_IOW('v', 0xC9, __u32)
#define VLO_SET_STASH		_IOW('v', 0xCA, struct vlo_stash)
#define VLO_GET_STASH		_IOR('v', 0xCB, struct vlo_stash)
/* No back end is there: all outstanding requests fail. Returns how many did. */
#define VLO_FAIL_REQUESTS	_IO('v', 0xCC)
/* Removes the device while its back end still serves; VLO_EVENT_GONE follows. */
#define VLO_REMOVE		_IO('v', 0xCD)

#endif /* VIRTIO_LOOPBACK_H */
