// SPDX-License-Identifier: GPL-2.0
/*
 * The device as virtio drivers see it: struct virtio_config_ops.
 *
 * Features, status and config space are kept in the kernel, so a driver waits for the adapter in
 * two cases only, and never for long: at a reset, so that a back end has stopped when the driver
 * goes on (stop_ms), and at a write to config space where the device wants that.
 */
#include <linux/platform_device.h>
#include "vlo.h"

/* How long a driver waits for the answer to a write to config space. */
#define VLO_CONFIG_JIFFIES	(10 * HZ)

/*
 * Features that the driver's ring offers. The ring is the kernel's own, and so the back end's
 * features of rings do not count here. INDIRECT_DESC comes from the adapter: chains go to the back
 * end as they are.
 */
#define VLO_DRIVER_FEATURES	(BIT_ULL(VIRTIO_RING_F_INDIRECT_DESC) | \
				 BIT_ULL(VIRTIO_F_VERSION_1) | BIT_ULL(VIRTIO_F_RING_RESET))

/**
 * vlo_post() - reports events to the adapter
 * @device: the device
 * @events: VLO_EVENT_*
 *
 * Context: Any context.
 */
void vlo_post(struct vlo_device *device, u32 events)
{
	unsigned long flags;

	spin_lock_irqsave(&device->state_lock, flags);
	device->events |= events;
	spin_unlock_irqrestore(&device->state_lock, flags);
	wake_up_all(&device->wait);
}

static bool vlo_is_acked(struct vlo_device *device, u32 sequence)
{
	return (s32)(READ_ONCE(device->acked) - sequence) >= 0;
}

/* Tells the adapter and waits for its VLO_ACK. False: there is none, or it takes too long. */
static bool vlo_post_and_wait(struct vlo_device *device, u32 events, unsigned long timeout)
{
	unsigned long flags;
	u32 sequence;

	spin_lock_irqsave(&device->state_lock, flags);
	device->events |= events;
	sequence = ++device->sequence;
	spin_unlock_irqrestore(&device->state_lock, flags);
	wake_up_all(&device->wait);
	wait_event_timeout(device->wait, vlo_is_acked(device, sequence) ||
			   READ_ONCE(device->dead) || !READ_ONCE(device->owner), timeout);
	return vlo_is_acked(device, sequence);
}

/*
 * The driver takes a ring away and goes on when the back end has stopped, or after a while. One
 * that has not stopped can do no harm: its memory is its own, and what it has of the driver's is
 * taken back when the session ends.
 */
static void vlo_stop_back_end(struct vlo_device *device, u32 events)
{
	if (!vlo_post_and_wait(device, events, msecs_to_jiffies(device->stop_ms)))
		dev_info(&device->parent->dev, "%s: a reset did not wait for its adapter any longer\n",
			 device->name);
}

static void vlo_get(struct virtio_device *vdev, unsigned int offset, void *buf, unsigned int len)
{
	struct vlo_device *device = to_vlo(vdev);
	unsigned long flags;

	memset(buf, 0, len);
	if (offset >= device->config_size)
		return;
	spin_lock_irqsave(&device->state_lock, flags);
	memcpy(buf, device->config + offset, min(len, device->config_size - offset));
	spin_unlock_irqrestore(&device->state_lock, flags);
}

static void vlo_set(struct virtio_device *vdev, unsigned int offset, const void *buf,
		    unsigned int len)
{
	struct vlo_device *device = to_vlo(vdev);
	unsigned long flags;

	if (offset >= device->config_size || len > device->config_size - offset)
		return;
	spin_lock_irqsave(&device->state_lock, flags);
	memcpy(device->config + offset, buf, len);
	spin_unlock_irqrestore(&device->state_lock, flags);
	if (device->flags & VLO_F_CONFIG_WAIT)
		vlo_post_and_wait(device, VLO_EVENT_CONFIG, VLO_CONFIG_JIFFIES);
	else
		vlo_post(device, VLO_EVENT_CONFIG);
}

static u32 vlo_generation(struct virtio_device *vdev)
{
	return READ_ONCE(to_vlo(vdev)->generation);
}

static u8 vlo_get_status(struct virtio_device *vdev)
{
	return READ_ONCE(to_vlo(vdev)->status);
}

static void vlo_set_status(struct virtio_device *vdev, u8 status)
{
	struct vlo_device *device = to_vlo(vdev);

	WRITE_ONCE(device->known, true);
	WRITE_ONCE(device->status, status);
	vlo_post(device, VLO_EVENT_STATUS);
}

static void vlo_synchronize(struct virtio_device *vdev)
{
	struct vlo_device *device = to_vlo(vdev);
	u32 index;

	for (index = 0; index < device->queue_count; index++)
		irq_work_sync(&device->queues[index].call_work);
}

static void vlo_reset(struct virtio_device *vdev)
{
	struct vlo_device *device = to_vlo(vdev);
	bool is_running = device->status & VIRTIO_CONFIG_S_DRIVER_OK;
	u32 events = VLO_EVENT_RESET | VLO_EVENT_STATUS;

	WRITE_ONCE(device->status, 0);
	if (is_running)
		vlo_stop_back_end(device, events);
	else
		vlo_post(device, events);
	vlo_session_end(device);
	vlo_synchronize(vdev);
}

static u64 vlo_get_features(struct virtio_device *vdev)
{
	u64 ring = GENMASK_ULL(VIRTIO_TRANSPORT_F_END - 1, VIRTIO_TRANSPORT_F_START);

	return to_vlo(vdev)->features & (~ring | VLO_DRIVER_FEATURES);
}

static int vlo_finalize_features(struct virtio_device *vdev)
{
	bool is_reset_wanted = __virtio_test_bit(vdev, VIRTIO_F_RING_RESET);

	vring_transport_features(vdev);
	if (is_reset_wanted)
		__virtio_set_bit(vdev, VIRTIO_F_RING_RESET);
	return __virtio_test_bit(vdev, VIRTIO_F_VERSION_1) ? 0 : -EINVAL;
}

static const char *vlo_bus_name(struct virtio_device *vdev)
{
	return "virtio-loopback";
}

static bool vlo_notify(struct virtqueue *vq)
{
	vlo_pump(vq->priv);
	return true;
}

static void vlo_del_vqs(struct virtio_device *vdev)
{
	struct vlo_device *device = to_vlo(vdev);
	struct virtqueue *vq, *next;

	mutex_lock(&device->lock);
	list_for_each_entry(vq, &vdev->vqs, list)
		vlo_queue_forget(vq->priv);
	mutex_unlock(&device->lock);
	/* A driver whose probe fails late frees its buffers without a reset. */
	vlo_session_end(device);
	list_for_each_entry_safe(vq, next, &vdev->vqs, list)
		vring_del_virtqueue(vq);
	vlo_post(device, VLO_EVENT_QUEUES);
}

static struct virtqueue *vlo_make_vq(struct vlo_device *device, u32 index,
				     const struct virtqueue_info *info)
{
	struct vlo_vq *queue = &device->queues[index];
	struct virtqueue *vq;
	int error;

	vq = vring_create_virtqueue(index, device->queue_sizes[index], PAGE_SIZE, &device->vdev,
				    true, true, info->ctx, vlo_notify, info->callback, info->name);
	if (!vq)
		return NULL;
#ifdef VLO_HAS_QUEUE_RESET
	vq->num_max = device->queue_sizes[index];
#endif
	vq->priv = queue;
	mutex_lock(&device->lock);
	error = vlo_queue_show(queue, vq);
	mutex_unlock(&device->lock);
	if (error) {
		vring_del_virtqueue(vq);
		return NULL;
	}
	return vq;
}

static int vlo_find_vqs(struct virtio_device *vdev, unsigned int count, struct virtqueue *vqs[],
			struct virtqueue_info infos[], struct irq_affinity *affinity)
{
	struct vlo_device *device = to_vlo(vdev);
	unsigned int i, index = 0;

	for (i = 0; i < count; i++) {
		vqs[i] = NULL;
		if (!infos[i].name)
			continue;
		if (index < device->queue_count)
			vqs[i] = vlo_make_vq(device, index, &infos[i]);
		if (!vqs[i]) {
			vlo_del_vqs(vdev);
			return index < device->queue_count ? -ENOMEM : -ENOENT;
		}
		index++;
	}
	vlo_post(device, VLO_EVENT_QUEUES);
	return 0;
}

#ifdef VLO_FIND_VQS_BY_ARRAYS
static int vlo_find_vqs_arrays(struct virtio_device *vdev, unsigned int count,
			       struct virtqueue *vqs[], vq_callback_t *callbacks[],
			       const char * const names[], const bool *contexts,
			       struct irq_affinity *affinity)
{
	struct virtqueue_info *infos = kcalloc(count, sizeof(*infos), GFP_KERNEL);
	unsigned int i;
	int error;

	if (!infos)
		return -ENOMEM;
	for (i = 0; i < count; i++) {
		infos[i].name = names[i];
		infos[i].callback = callbacks[i];
		infos[i].ctx = contexts && contexts[i];
	}
	error = vlo_find_vqs(vdev, count, vqs, infos, affinity);
	kfree(infos);
	return error;
}
#endif

#ifdef VLO_HAS_QUEUE_RESET
static int vlo_disable_vq(struct virtqueue *vq)
{
	struct vlo_vq *queue = vq->priv;
	struct vlo_device *device = queue->device;

	if (!virtio_has_feature(vq->vdev, VIRTIO_F_RING_RESET))
		return -ENOENT;
	__virtqueue_break(vq);
	mutex_lock(&device->lock);
	vlo_queue_forget(queue);
	mutex_unlock(&device->lock);
	vlo_stop_back_end(device, VLO_EVENT_QUEUES);
	/* With bounced buffers the other queues go on. */
	if (vlo_is_direct(device))
		vlo_session_end(device);
	vq->reset = true;
	return 0;
}

/* The queue's ring is new. The adapter begins a session, which has it. */
static int vlo_enable_vq(struct virtqueue *vq)
{
	struct vlo_vq *queue = vq->priv;
	struct vlo_device *device = queue->device;
	int error;

	if (!vq->reset)
		return -EBUSY;
	mutex_lock(&device->lock);
	error = vlo_queue_show(queue, vq);
	mutex_unlock(&device->lock);
	if (error)
		return error;
	vq->reset = false;
	__virtqueue_unbreak(vq);
	vlo_post(device, VLO_EVENT_QUEUES);
	return 0;
}
#endif

const struct virtio_config_ops vlo_config_ops = {
	.get = vlo_get,
	.set = vlo_set,
	.generation = vlo_generation,
	.get_status = vlo_get_status,
	.set_status = vlo_set_status,
	.reset = vlo_reset,
#ifdef VLO_FIND_VQS_BY_ARRAYS
	.find_vqs = vlo_find_vqs_arrays,
#else
	.find_vqs = vlo_find_vqs,
#endif
	.del_vqs = vlo_del_vqs,
#ifdef VLO_HAS_SYNCHRONIZE_CBS
	.synchronize_cbs = vlo_synchronize,
#endif
	.get_features = vlo_get_features,
	.finalize_features = vlo_finalize_features,
	.bus_name = vlo_bus_name,
#ifdef VLO_HAS_QUEUE_RESET
	.disable_vq_and_reset = vlo_disable_vq,
	.enable_vq_after_reset = vlo_enable_vq,
#endif
};
