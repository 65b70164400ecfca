/* graphs.c -- what a capture leaves, and its replays: copies and fills are done again, kernels are empty. */
#include "tests/nullcuda/nullcuda.h"
#include <stdlib.h>

struct nc_graph {
	struct nc_node *node;
	size_t n, room;
};

struct nc_graph *nc_graph_new(void)
{
	return calloc(1, sizeof(struct nc_graph));
}

void nc_graph_free(struct nc_graph *g)
{
	free(g->node);
	free(g);
}

size_t nc_graph_size(const struct nc_graph *g)
{
	return g->n;
}

void nc_graph_add(struct nc_graph *g, const struct nc_node *n)
{
	if (g->n == g->room) {
		g->room = g->room ? 2 * g->room : 256;
		if (!(g->node = realloc(g->node, g->room * sizeof *g->node)))
			nc_fail("out of the host's memory");
	}
	g->node[g->n++] = *n;
}

NC_API cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *n)
{
	if (nodes)
		nc_fail("cudaGraphGetNodes: nodes have no handles");
	*n = ((struct nc_graph *)graph)->n;
	return cudaSuccess;
}

NC_API cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec, cudaGraph_t graph,
						 unsigned long long flags)
{
	const struct nc_graph *g = (const struct nc_graph *)graph;
	struct nc_graph *x = nc_graph_new();

	(void)flags;
	for (size_t i = 0; i < g->n; i++)
		nc_graph_add(x, &g->node[i]);
	*exec = (cudaGraphExec_t)x;
	return cudaSuccess;
}

NC_API cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
	nc_graph_free((struct nc_graph *)graph);
	return cudaSuccess;
}

NC_API cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
	nc_graph_free((struct nc_graph *)exec);
	return cudaSuccess;
}

/* Into a captured stream: an H100 refuses the probe's graph, so nothing that we know of works. */
NC_API cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
	const struct nc_graph *g = (const struct nc_graph *)exec;

	if (nc_refuse_capture(nc_stream_of(stream), "cudaGraphLaunch"))
		return nc_return(cudaErrorStreamCaptureUnsupported);
	nc_count(NC_GRAPH_LAUNCHES);
	for (size_t i = 0; i < g->n; i++) {
		const struct nc_node *n = &g->node[i];
		if (n->kind == NC_NODE_COPY)
			nc_copy(n->to, n->from, n->n);
		else if (n->kind == NC_NODE_SET)
			nc_fill(n->to, n->value, n->n);
	}
	return cudaSuccess;
}
