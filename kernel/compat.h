/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What differs between the kernels that the module is built for: 5.10 to 7.3. No other file asks
 * for the version. Each entry names the version that changed the interface.
 */
#ifndef VLO_COMPAT_H
#define VLO_COMPAT_H

#include <linux/version.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 10, 0)
#error "virtio_loopback needs Linux 5.10 or newer"
#endif
#if !IS_ENABLED(CONFIG_64BIT)
#error "virtio_loopback needs a 64-bit kernel"
#endif
#if !IS_ENABLED(CONFIG_SHMEM)
#error "virtio_loopback needs CONFIG_SHMEM"
#endif

#include <linux/eventfd.h>
#include <linux/hrtimer.h>
#include <linux/mm.h>
#include <linux/shmem_fs.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/wait.h>

/* 5.11: wait-queue entries with priority. Without it a reader may take the count first. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 11, 0)
#define add_wait_queue_priority(head, entry)	add_wait_queue(head, entry)
#endif

/*
 * 5.15: modules can ask whether they run inside of another eventfd's wake-up, where no eventfd can
 * be signalled. Before, that is possible wherever interrupts were off: @flags has what they were.
 */
#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 15, 0)
#define vlo_can_signal(flags)	(!irqs_disabled_flags(flags))
#else
#define vlo_can_signal(flags)	((void)(flags), eventfd_signal_allowed())
#endif

/* 6.0: queue reset. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 0, 0)
#define VLO_HAS_QUEUE_RESET
#endif
#ifndef VIRTIO_F_RING_RESET
#define VIRTIO_F_RING_RESET	40
#endif

/* 5.19: virtio waits for callbacks by asking the transport. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(5, 19, 0)
#define VLO_HAS_SYNCHRONIZE_CBS
#endif

/* 6.3: flags of a mapping are set by a function. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
#define vm_flags_set(vma, flags)	((vma)->vm_flags |= (flags))
#endif

/* 6.8: always one. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 8, 0)
#define vlo_eventfd_signal(ctx)		((void)eventfd_signal((ctx), 1))
#else
#define vlo_eventfd_signal(ctx)		eventfd_signal(ctx)
#endif

/* 6.11: one array of structures in place of three arrays. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 11, 0)
#define VLO_FIND_VQS_BY_ARRAYS
struct virtqueue_info {
	const char *name;
	vq_callback_t *callback;
	bool ctx;
};
#endif

/* 6.13: one function in place of two steps. */
static inline void vlo_hrtimer_setup(struct hrtimer *timer,
				     enum hrtimer_restart (*function)(struct hrtimer *))
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
	hrtimer_setup(timer, function, CLOCK_MONOTONIC, HRTIMER_MODE_REL);
#else
	hrtimer_init(timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL);
	timer->function = function;
#endif
}

/* 6.12: one header for all architectures. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
#include <linux/unaligned.h>
#else
#include <asm/unaligned.h>
#endif

/* 6.19: flags of a mapping became a type of their own. */
static inline struct file *vlo_shmem_file(const char *name, loff_t size)
{
#ifdef EMPTY_VMA_FLAGS
	return shmem_file_setup(name, size, EMPTY_VMA_FLAGS);
#else
	return shmem_file_setup(name, size, 0);
#endif
}

#endif /* VLO_COMPAT_H */
