/* SPDX-License-Identifier: Apache-2.0 */
/* Messages on a GPU: sealed and opened, and what goes before and after a step. Format: doc/wire-format.md, "Bundles". */
#include "scan.h"

#include "../../libcomm/checksum.h"
#include "../../libcomm/frame_layout.h"

namespace tacit_message {

constexpr unsigned THREADS = 256, CHUNK = TACIT_MESSAGE_CHUNK;

/* The fault that a message of this rank tells. */
__device__ uint64_t own_fault(const tacit_device_bundle_t &bundle)
{
    const uint32_t bad = *(volatile uint32_t *)&bundle.step->bad_tensor;
    const uint64_t own = bad != UINT32_MAX ? TACIT_DEVICE_FAULT(bundle.rank, TACIT_REASON_VALUE, bad) : TACIT_DEVICE_NO_FAULT;
    const uint64_t other = *(volatile uint64_t *)&bundle.step->fault;

    return own < other ? own : other;
}

__device__ int32_t status_of(uint64_t fault)
{
    switch ((tacit_reason_t)TACIT_DEVICE_FAULT_REASON(fault)) {
    case TACIT_REASON_VALUE:
    case TACIT_REASON_SUM:
        return TACIT_ERR_VALUE;
    case TACIT_REASON_TENSORS:
    case TACIT_REASON_SPEC:
    case TACIT_REASON_STEP:
    case TACIT_REASON_HISTORY:
        return TACIT_ERR_MISMATCH;
    case TACIT_REASON_STATUS:
        return (int32_t)(int16_t)(fault & 0xffff);
    default:
        return TACIT_ERR_FRAME;
    }
}

__device__ void write_header(const tacit_device_bundle_t &bundle, int kind, uint64_t payload_bytes, uint32_t sum, uint8_t *header)
{
    const uint64_t fault = own_fault(bundle);

    memcpy(header, bundle.header, TACIT_FRAME_HEADER_BYTES);
    header[TACIT_AT_KIND] = (uint8_t)kind;
    tacit__store32(header + TACIT_AT_STEP, (uint32_t)bundle.step->step);
    tacit__store32(header + TACIT_AT_HISTORY, (uint32_t)bundle.step->history);
    if (fault != TACIT_DEVICE_NO_FAULT) {
        payload_bytes = 0;
        sum = 0;
        tacit__store16(header + TACIT_AT_STATUS, (uint16_t)status_of(fault));
        tacit__store32(header + TACIT_AT_SEQUENCE, TACIT_DEVICE_FAULT_RANK(fault));
        tacit__store32(header + TACIT_AT_FIRST, TACIT_DEVICE_FAULT_DETAIL(fault));
        tacit__store32(header + TACIT_AT_COUNT, 1 + TACIT_DEVICE_FAULT_REASON(fault));
    }
    tacit__store32(header + TACIT_AT_PAYLOAD_BYTES, (uint32_t)payload_bytes);
    tacit__store32(header + TACIT_AT_PAYLOAD_CHECKSUM, sum + (uint32_t)payload_bytes * TACIT_CHECKSUM_LENGTH);
    tacit__store32(header + TACIT_AT_HEADER_CRC, tacit__crc32c_of(header, TACIT_AT_HEADER_CRC));
}

/* What is wrong with a message that says it has payload_bytes bytes, whose terms add up to `sum`. */
__device__ uint64_t judge(const tacit_device_bundle_t &bundle, int kind, const tacit_device_message_t &message,
                          const uint8_t *header, uint64_t payload_bytes, uint32_t sum)
{
    const uint64_t rank = message.rank;
    const uint32_t status = tacit__load16(header + TACIT_AT_STATUS), reason = tacit__load32(header + TACIT_AT_COUNT);

    if (tacit__load32(header + TACIT_AT_MAGIC) != TACIT_FRAME_MAGIC) {
        return TACIT_DEVICE_FAULT(rank, TACIT_REASON_FOREIGN, 0);
    }
    if (tacit__crc32c_of(header, TACIT_AT_HEADER_CRC) != tacit__load32(header + TACIT_AT_HEADER_CRC)) {
        return TACIT_DEVICE_FAULT(rank, TACIT_REASON_HEADER, 0);
    }
    if (header[TACIT_AT_VERSION] != TACIT_FRAME_VERSION) {
        return TACIT_DEVICE_FAULT(rank, TACIT_REASON_VERSION, 0);
    }
    if (tacit__load32(header + TACIT_AT_PAYLOAD_BYTES) != payload_bytes) {
        return TACIT_DEVICE_FAULT(rank, TACIT_REASON_LENGTH, 0);
    }
    if (sum + (uint32_t)payload_bytes * TACIT_CHECKSUM_LENGTH != tacit__load32(header + TACIT_AT_PAYLOAD_CHECKSUM)) {
        return TACIT_DEVICE_FAULT(rank, TACIT_REASON_CHECKSUM, 0);
    }
    if (header[TACIT_AT_KIND] != kind || tacit__load16(header + TACIT_AT_RANK) != rank) {
        return TACIT_DEVICE_FAULT(rank, TACIT_REASON_ORDER, 0);
    }
    if (status != 0) {
        return reason >= 1 && reason <= TACIT_REASONS ? TACIT_DEVICE_FAULT(tacit__load32(header + TACIT_AT_SEQUENCE) & 0xffff,
                                                                           reason - 1, tacit__load32(header + TACIT_AT_FIRST))
                                                      : TACIT_DEVICE_FAULT(rank, TACIT_REASON_STATUS, status);
    }
    if (tacit__load32(header + TACIT_AT_SLOT) != tacit__load32(bundle.header + TACIT_AT_SLOT) ||
        tacit__load32(header + TACIT_AT_ELEMENTS) != tacit__load32(bundle.header + TACIT_AT_ELEMENTS)) {
        return TACIT_DEVICE_FAULT(rank, TACIT_REASON_TENSORS, 0);
    }
    if (tacit__load32(header + TACIT_AT_SPEC) != tacit__load32(bundle.header + TACIT_AT_SPEC)) {
        return TACIT_DEVICE_FAULT(rank, TACIT_REASON_SPEC, 0);
    }
    if (tacit__load32(header + TACIT_AT_STEP) != (uint32_t)bundle.step->step) {
        return TACIT_DEVICE_FAULT(rank, TACIT_REASON_STEP, 0);
    }
    if (tacit__load32(header + TACIT_AT_HISTORY) != (uint32_t)bundle.step->history) {
        return TACIT_DEVICE_FAULT(rank, TACIT_REASON_HISTORY, 0);
    }
    return payload_bytes == message.payload_bytes ? TACIT_DEVICE_NO_FAULT : TACIT_DEVICE_FAULT(rank, TACIT_REASON_LENGTH, 0);
}

/* The terms of a block's part of a payload. What is behind the last byte counts as zero. */
__device__ uint32_t sum_chunk(const uint8_t *payload, uint64_t bytes, uint64_t first)
{
    const uint64_t end = bytes - first < CHUNK ? bytes : first + CHUNK;
    uint32_t       sum = 0;

    for (uint64_t at = first + 16 * threadIdx.x; at < end; at += 16 * THREADS) {
        uint32_t words[4] = {0, 0, 0, 0};

        if (at + 16 <= end) {
            const uint4 four = *(const uint4 *)(payload + at);

            words[0] = four.x;
            words[1] = four.y;
            words[2] = four.z;
            words[3] = four.w;
        } else {
            for (uint64_t i = at; i < end; i++) {
                words[(i - at) / 4] |= (uint32_t)payload[i] << 8 * (i % 4);
            }
        }
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            sum += at + 4 * i < end ? tacit__checksum_term(words[i], (uint32_t)(at / 4) + i) : 0;
        }
    }
    return tacit::block_sum(sum);
}

/* The message that a block works on. */
__device__ uint32_t message_of(const tacit_device_messages_t &messages)
{
    uint32_t i = 0;

    while (i + 1 < messages.count && messages.message[i + 1].first_block <= blockIdx.x) {
        i++;
    }
    return i;
}

/* Adds a block's sum to its message's. True for the last block of a message, which gets what all add up to. */
__device__ bool is_last(const tacit_device_messages_t &messages, uint32_t i, uint32_t sum, uint32_t *total_out)
{
    const uint32_t end = i + 1 < messages.count ? messages.message[i + 1].first_block : messages.blocks;

    atomicAdd(&messages.sums[i], sum);
    __threadfence();
    if (atomicAdd(&messages.blocks_done[i], 1u) + 1 != end - messages.message[i].first_block) {
        return false;
    }
    __threadfence();
    *total_out = atomicExch(&messages.sums[i], 0u);
    messages.blocks_done[i] = 0;
    return true;
}

__global__ void seal(tacit_device_bundle_t bundle, tacit_device_messages_t messages, int kind, uint8_t *out)
{
    const uint32_t               i = message_of(messages);
    const tacit_device_message_t message = messages.message[i];
    uint8_t *const               header = out + message.at;
    const uint32_t               sum =
        sum_chunk(header + TACIT_FRAME_HEADER_BYTES, message.payload_bytes, (uint64_t)(blockIdx.x - message.first_block) * CHUNK);
    uint32_t total;

    if (threadIdx.x == 0 && is_last(messages, i, sum, &total)) {
        write_header(bundle, kind, message.payload_bytes, total, header);
    }
}

/* A message says how long it is, which may be a lie: no more is read than it has room for. Where there is none, one block tells
   this rank's own fault. */
__global__ void open(tacit_device_bundle_t bundle, tacit_device_messages_t messages, int kind, const uint8_t *in, bool verdict)
{
    if (messages.count == 0) {
        bundle.step->fault = own_fault(bundle);
        return;
    }
    const uint32_t               i = message_of(messages);
    const tacit_device_message_t message = messages.message[i];
    const uint8_t *const         header = in + message.at;
    const uint64_t says = tacit__load32(header + TACIT_AT_PAYLOAD_BYTES), bytes = says < message.room ? says : message.room;
    const uint64_t first = (uint64_t)(blockIdx.x - message.first_block) * CHUNK;
    const uint32_t sum = first < bytes ? sum_chunk(header + TACIT_FRAME_HEADER_BYTES, bytes, first) : 0;
    uint32_t       total;

    if (threadIdx.x != 0 || !is_last(messages, i, sum, &total)) {
        return;
    }
    messages.faults[i] = judge(bundle, kind, message, header, bytes, total);
    __threadfence();
    if (atomicAdd(&bundle.step->messages_done, 1u) + 1 != messages.count) {
        return;
    }
    __threadfence();
    uint64_t fault = verdict ? TACIT_DEVICE_NO_FAULT : own_fault(bundle);
    for (uint32_t m = 0; m < messages.count; m++) {
        const uint64_t one = *(volatile uint64_t *)&messages.faults[m];
        fault = one < fault ? one : fault;
    }
    bundle.step->fault = fault;
    bundle.step->messages_done = 0;
}

/* next: one more than the last step. */
__global__ void begin(tacit_device_bundle_t bundle, uint64_t step, bool next)
{
    bundle.step->step = next ? bundle.step->step + 1 : step;
    bundle.step->fault = TACIT_DEVICE_NO_FAULT;
    bundle.step->bad_tensor = UINT32_MAX;
    bundle.step->wholes_sent = 0;
}

__global__ void end(tacit_device_bundle_t bundle)
{
    tacit_device_step_t *const   step = bundle.step;
    tacit_device_report_t *const report = bundle.report;
    const bool                   failed = step->fault != TACIT_DEVICE_NO_FAULT;

    for (uint32_t i = threadIdx.x; !failed && i < bundle.tensor_count; i += blockDim.x) {
        *bundle.tensors[i].turn ^= 1;
    }
    __syncthreads();
    if (threadIdx.x != 0) {
        return;
    }
    if (!failed) { /* FNV-1a of the step's bytes */
        for (int byte = 0; byte < 8 && !bundle.serves; byte++) {
            step->history = (step->history ^ (step->step >> 8 * byte & 0xff)) * 0x100000001b3u;
        }
    } else {
        tacit_device_fault_t *const fault = &report->faults[report->failed % TACIT_DEVICE_FAULTS];

        fault->number = step->ended + 1;
        fault->step = step->step;
        fault->fault = step->fault;
        report->failed++;
    }
    step->ended++;
    __threadfence_system();
    *(volatile uint64_t *)&report->ended = step->ended;
}

__global__ void cancel(tacit_device_bundle_t bundle)
{
    bundle.step->fault = TACIT_DEVICE_FAULT(bundle.rank, TACIT_REASON_STATUS, 0);
}

} /* namespace tacit_message */

extern "C" void tacit_cuda_begin(const tacit_device_bundle_t *bundle, uint64_t step, void *stream)
{
    TACIT_LAUNCH(tacit_message::begin, 1, 1, stream, *bundle, step, step == UINT64_MAX);
}

extern "C" void tacit_cuda_seal(const tacit_device_bundle_t *bundle, const tacit_device_messages_t *messages, int kind, void *out,
                                void *stream)
{
    TACIT_LAUNCH(tacit_message::seal, messages->blocks, tacit_message::THREADS, stream, *bundle, *messages, kind, (uint8_t *)out);
}

extern "C" void tacit_cuda_open(const tacit_device_bundle_t *bundle, const tacit_device_messages_t *messages, int kind,
                                const void *in, bool verdict, void *stream)
{
    const unsigned blocks = messages->count != 0 ? messages->blocks : 1,
                   threads = messages->count != 0 ? tacit_message::THREADS : 1;

    TACIT_LAUNCH(tacit_message::open, blocks, threads, stream, *bundle, *messages, kind, (const uint8_t *)in, verdict);
}

extern "C" void tacit_cuda_cancel(const tacit_device_bundle_t *bundle, void *stream)
{
    TACIT_LAUNCH(tacit_message::cancel, 1, 1, stream, *bundle);
}

extern "C" void tacit_cuda_end(const tacit_device_bundle_t *bundle, void *stream)
{
    TACIT_LAUNCH(tacit_message::end, 1, tacit_message::THREADS, stream, *bundle);
}
