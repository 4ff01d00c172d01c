#pragma once

// What libfinesweep-graph.so offers: the few calls into libtorch's CUDA library that have no form which libtorch's
// CPU half knows. It is linked with libtorch_cuda, so it can be loaded only after that was. C functions, none of
// which throws: what went wrong is in finesweep_graph_error().

extern "C" {

/// Raised with every change of what stands below.
inline constexpr int kFinesweepGraphVersion = 4;
int finesweep_graph_version();
/// Of the last call on this thread that failed.
const char* finesweep_graph_error();

/// Memory that several graphs take their temporary tensors from, one after the other: they are replayed one at a
/// time, and nothing that one leaves there is read by another. Null where it failed. Any thread.
void* finesweep_graph_pool_new();
void finesweep_graph_pool_delete(void* pool);

/// Makes the stream on which graphs are captured the current one of this thread, behind all work of the one that
/// was; end gives that back, behind all work of this. What runs between the two warms up the libraries for a
/// capture.
int finesweep_graph_stream_begin(int device);
int finesweep_graph_stream_end(int device);

/// Between the two, work that is given to the current stream is recorded, not done. On the stream of
/// finesweep_graph_stream_begin alone. `end` gives the graph, ready to replay, or null: then nothing is left of it.
int finesweep_graph_capture_begin(int device, void* pool);
void* finesweep_graph_capture_end();
/// In place of end, where what was to be captured threw.
void finesweep_graph_capture_abandon();

/// The cudaStream_t that is the current stream of this thread.
int finesweep_graph_stream_handle(int device, void** handle);

/// A place in the work of a device, for a stream that waits for no more than what is before it. `record` puts it
/// behind what the current stream has been given; in a capture it is recorded by every replay. `wait` lets
/// `stream`, a cudaStream_t, wait for where it was recorded last. Any thread.
void* finesweep_graph_mark_new();
int finesweep_graph_mark_record(void* mark, int device);
int finesweep_graph_mark_wait(void* mark, void* stream);
void finesweep_graph_mark_delete(void* mark);

/// On the current stream. The graph's memory holds what the replay left until another graph of its pool is
/// replayed.
int finesweep_graph_replay(void* graph);
void finesweep_graph_delete(void* graph);
}
