@{c_array}
