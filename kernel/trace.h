/* SPDX-License-Identifier: GPL-2.0 */
/* Tracepoints: /sys/kernel/tracing/events/virtio_loopback/ */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM virtio_loopback

#if !defined(VLO_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define VLO_TRACE_H

#include <linux/tracepoint.h>

DECLARE_EVENT_CLASS(vlo_request,
	TP_PROTO(const struct vlo_vq *queue, u16 id, u32 out_bytes, u32 in_bytes),
	TP_ARGS(queue, id, out_bytes, in_bytes),
	TP_STRUCT__entry(
		__field(u32, device)
		__field(u16, queue)
		__field(u16, id)
		__field(u32, out_bytes)
		__field(u32, in_bytes)
	),
	TP_fast_assign(
		__entry->device = queue->device->id - 1;
		__entry->queue = queue->index;
		__entry->id = id;
		__entry->out_bytes = out_bytes;
		__entry->in_bytes = in_bytes;
	),
	TP_printk("device=%u queue=%u id=%u out=%u in=%u", __entry->device, __entry->queue,
		  __entry->id, __entry->out_bytes, __entry->in_bytes)
);

/* A request was placed in the device's ring. */
DEFINE_EVENT(vlo_request, vlo_forward,
	TP_PROTO(const struct vlo_vq *queue, u16 id, u32 out_bytes, u32 in_bytes),
	TP_ARGS(queue, id, out_bytes, in_bytes)
);

DECLARE_EVENT_CLASS(vlo_completion,
	TP_PROTO(const struct vlo_vq *queue, u16 id, u32 used),
	TP_ARGS(queue, id, used),
	TP_STRUCT__entry(
		__field(u32, device)
		__field(u16, queue)
		__field(u16, id)
		__field(u32, used)
	),
	TP_fast_assign(
		__entry->device = queue->device->id - 1;
		__entry->queue = queue->index;
		__entry->id = id;
		__entry->used = used;
	),
	TP_printk("device=%u queue=%u id=%u used=%u", __entry->device, __entry->queue,
		  __entry->id, __entry->used)
);

/* The back end completed a request. */
DEFINE_EVENT(vlo_completion, vlo_complete,
	TP_PROTO(const struct vlo_vq *queue, u16 id, u32 used),
	TP_ARGS(queue, id, used)
);

/* The module failed a request. */
TRACE_EVENT(vlo_fail,
	TP_PROTO(const struct vlo_vq *queue, u16 id),
	TP_ARGS(queue, id),
	TP_STRUCT__entry(
		__field(u32, device)
		__field(u16, queue)
		__field(u16, id)
	),
	TP_fast_assign(
		__entry->device = queue->device->id - 1;
		__entry->queue = queue->index;
		__entry->id = id;
	),
	TP_printk("device=%u queue=%u id=%u", __entry->device, __entry->queue, __entry->id)
);

#endif /* VLO_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
