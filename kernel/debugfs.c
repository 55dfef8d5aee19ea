// SPDX-License-Identifier: GPL-2.0
/* Counters: /sys/kernel/debug/virtio-loopback/NAME, a line for each queue. */
#include <linux/debugfs.h>
#include <linux/seq_file.h>
#include "vlo.h"

static struct dentry *vlo_debugfs;

/* Where the two sides are in the ring, and where each wants to be woken. */
static void vlo_ring_show(struct seq_file *file, struct vlo_vq *queue)
{
	struct vlo_ring ring;
	u16 kick_at, call_at;

	/* A thread that has one of the halves may go on: what is shown is a moment of it. */
	ring = data_race(queue->ring);
	vlo_ring_wishes(&ring, &kick_at, &call_at);
	seq_printf(file, "sent %d placed %u kicked %u kick_at %u taken %u unseen %u call_at %u\n",
		   atomic_read(&queue->sent), ring.avail_next, ring.avail_kicked, kick_at,
		   ring.used_next, vlo_ring_unseen(&ring), call_at);
}

static int vlo_counters_show(struct seq_file *file, void *data)
{
	struct vlo_device *device = file->private;
	const struct vlo_counters *counters;
	struct vlo_vq *queue;
	struct vlo_pool *pool;
	u32 index;

	mutex_lock(&device->lock);
	pool = device->pool;
	seq_printf(file, "session %u pages %u room %u busy %u\n", device->session,
		   pool ? pool->page_count : 0, pool ? pool->room : 0,
		   pool ? bitmap_weight(pool->map, pool->page_count) -
			  (pool->page_count - pool->room) : 0);
	for (index = 0; index < device->queue_count; index++) {
		queue = &device->queues[index];
		counters = &queue->counters;
		seq_printf(file, "queue %u forwarded %llu completed %llu failed %llu dropped %llu ",
			   index, counters->forwarded, counters->completed, counters->failed,
			   counters->dropped);
		seq_printf(file, "replayed %llu out_bytes %llu in_bytes %llu kicks %llu ",
			   counters->replayed, counters->out_bytes, counters->in_bytes,
			   counters->kicks);
		seq_printf(file, "interrupts %llu starved %llu overstated %llu broken %llu ",
			   counters->interrupts, counters->starved, counters->overstated,
			   counters->broken);
		vlo_ring_show(file, queue);
	}
	mutex_unlock(&device->lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(vlo_counters);

/**
 * vlo_debugfs_add() - creates the file of a device's counters
 * @device: the device
 *
 * Context: Process context.
 */
void vlo_debugfs_add(struct vlo_device *device)
{
	device->debugfs = debugfs_create_file(device->name, 0400, vlo_debugfs, device,
					      &vlo_counters_fops);
}

/**
 * vlo_debugfs_remove() - removes the file of a device's counters
 * @device: the device
 *
 * Context: Process context.
 */
void vlo_debugfs_remove(struct vlo_device *device)
{
	debugfs_remove(device->debugfs);
}

/**
 * vlo_debugfs_init() - creates the folder of the module in debugfs
 *
 * Context: Process context.
 */
void vlo_debugfs_init(void)
{
	vlo_debugfs = debugfs_create_dir("virtio-loopback", NULL);
}

/**
 * vlo_debugfs_exit() - removes the folder
 *
 * Context: Process context.
 */
void vlo_debugfs_exit(void)
{
	debugfs_remove(vlo_debugfs);
}
