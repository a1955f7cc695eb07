#include "cold/gathered_rows.h"

namespace saec {
namespace {

// A table with the rows at `stored`; its ids are their places.
Table table_of(const Table& cold, const std::vector<uint8_t>& rows) {
  Table table;
  table.rows = table.stored_rows = rows.size() / stored_row_bytes(cold);
  table.dim = cold.dim;
  table.width = cold.width;
  table.element = cold.element;
  table.runs = cold.runs;
  table.any_beyond = false;
  table.stored = rows.data();
  return table;
}

}  // namespace

GatheredRows::GatheredRows(const Request& request, RowCache& cache, uint32_t first_row, size_t first, size_t last)
    : request_(request) {
  if (last - first > cache.most_rows()) throw_error(kTooManyPages);
  const Table& table = *request.table;
  // A skipped id is a row of its own, behind the others.
  const auto skipped = static_cast<int64_t>(last - first);
  std::vector<uint32_t> numbers;
  numbers.reserve(last - first);
  ids_.reserve(last - first);
  for (size_t i = first; i < last; ++i) {
    const uint64_t id = id_of(request, i);
    const bool skip = request.skipped >= 0 && id == static_cast<uint64_t>(request.skipped);
    if (id >= table.rows) {
      ids_.push_back(-1);
    } else if (skip) {
      ids_.push_back(skipped);
    } else {
      ids_.push_back(static_cast<int64_t>(numbers.size()));
      numbers.push_back(first_row + static_cast<uint32_t>(id));
    }
  }
  rows_.resize((last - first + 1) * cache.row_bytes());
  cache.gather(numbers, rows_.data());
  table_ = table_of(table, rows_);
  request_.table = &table_;
  // As if the ids of all positions were there.
  request_.ids = reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(ids_.data()) - first * sizeof(int64_t));
  request_.wide = true;
  request_.id_stride = 1;
  if (request.skipped >= 0) request_.skipped = skipped;
}

}  // namespace saec
