pub mod v1 {
    tonic::include_proto!("contex.v1");
}
