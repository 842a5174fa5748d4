"""Problems of a configuration and its data, found before the first batch."""
