mod source_stage;
